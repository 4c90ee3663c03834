"""The files that launch a cluster: what can be checked without Docker or a network."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import yaml
from cluster_files import (
    COMPOSE,
    DEPLOY,
    DOCKERFILE,
    FILES,
    PINNED,
    ROOT,
    SECRET_NAME,
    VARIABLE,
    check_command_line,
    filled_in,
    ignored_by_docker,
    option,
    text_of,
    tool,
)


class TestEveryFile:
    @pytest.mark.parametrize("path", FILES)
    def test_holds_no_secret(self, path):
        text = text_of(path)
        assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY", text)
        assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", text), "a URL with a password"
        for line in text.splitlines():
            found = re.match(r"\s*[\"']?([\w-]+)[\"']?\s*[:=]\s*(.*)", line.partition(" #")[0])
            if found and re.search(r"password$|secret_?(access_)?(key)?$|_token$", found[1], re.I):
                assert found[2] in {""} or found[2].startswith(("${", "$(")), line

    def test_pas_and_ray_commands_in_the_docs_exist(self):
        blocks = re.findall(r"^ *```\n(.*?)^ *```", text_of("docs/clusters.md"), re.M | re.S)
        text = re.sub(r"\\\n\s*", " ", "\n".join(blocks))
        commands = re.findall(
            r"^(?:.*(?:on-head|orchestrator) )?\s*((?:pas|ray) [a-z-].*)$", text, re.M
        )
        assert len(commands) >= 10
        for command in commands:
            words = shlex.split(command.partition(" >")[0], comments=True)
            if "--help" not in words:
                check_command_line(words)

    def test_is_in_the_docs(self):
        docs = text_of("docs/clusters.md")
        for path in FILES:
            assert path in docs or path.rsplit("/", 1)[1] in docs, path
        for path in re.findall(r"\bdeploy/[\w./-]+\w", docs):
            assert (ROOT / path).exists() or path.endswith("/.env"), path

    def test_docs_name_every_variable_that_a_person_may_set(self):
        docs = text_of("docs/clusters.md") + text_of("deploy/compose/env.example")
        shell = text_of("deploy/slurm/sweep.sbatch")
        names = {match[1] for match in VARIABLE.finditer(text_of(COMPOSE))}
        names |= set(re.findall(r"\bPAS_\w+", shell))
        names |= set(re.findall(r"^ARG (\w+)", text_of(DOCKERFILE), re.M))
        assert not {name for name in names if name not in docs}


class TestImage:
    def test_hadolint_has_no_complaint(self):
        done = subprocess.run(
            [tool("hadolint"), "--no-color", ROOT / DOCKERFILE],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert not done.stdout

    def test_what_it_copies_is_there_and_reaches_the_build(self):
        for sources in re.findall(r"^COPY (.+) \S+$", text_of(DOCKERFILE), re.M):
            for source in sources.split():
                inside = source if (ROOT / source).is_file() else f"{source}/__init__.py"
                assert (ROOT / inside).is_file()
                assert not ignored_by_docker(inside)

    def test_every_package_is_copied(self):
        project = tomllib.loads(text_of("pyproject.toml"))
        packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
        copied = set(re.findall(r"^COPY (\w+) \1$", text_of(DOCKERFILE), re.M))
        assert copied == packages
        extras = re.search(r"'\.\[([\w,]+)\]'", text_of(DOCKERFILE))[1].split(",")
        assert extras == ["cluster", "postgres"]  # of which the latter is for PAS_OPTUNA_URL
        assert set(extras) <= set(project["project"]["optional-dependencies"])

    @pytest.mark.parametrize(
        "path",
        [
            "deploy/compose/.env",
            ".env",
            ".git/config",
            ".pas/mlflow.db",
            "data/a.png",
            "tests/a.py",
        ],
    )
    def test_private_files_stay_out(self, path):
        assert ignored_by_docker(path)

    def test_secrets_are_ignored_by_git(self):
        ignored = subprocess.run(
            ["git", "check-ignore", "deploy/compose/.env"],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        if ignored.returncode == 128:
            pytest.skip("not a git checkout")
        assert ignored.returncode == 0

    def test_every_stage_ends_as_another_user_than_root(self):
        stages = re.split(r"^FROM ", text_of(DOCKERFILE), flags=re.M)[1:]
        for stage in stages:
            users = re.findall(r"^USER (\d+):(\d+)$", stage, re.M)
            assert users, stage
            assert "0" not in users[-1]  # Kubernetes' runAsNonRoot wants a number

    def test_all_that_pip_installs_is_pinned(self):
        named = re.findall(r"^\s+(?:pip install.*|torch.*)$", text_of(DOCKERFILE), re.M)
        words = " ".join(named).replace("'", "").replace("\\", "").replace(";", "").split()
        packages = {word.split("[")[0].lower() for word in words if re.match(r"[a-z]", word)} - {
            "pip",
            "install",
            "constraints.txt",
            "check",
        }
        assert packages >= {"torch", "torchvision", "mlflow", "psycopg2-binary", "boto3"}
        assert packages <= set(PINNED)


class TestCompose:
    @pytest.fixture(scope="class")
    def needed(self):
        """Names of the variables that env.example leaves empty."""
        return set(re.findall(r"^(\w+)=$", text_of("deploy/compose/env.example"), re.M))

    @pytest.fixture(scope="class")
    def project(self, needed):
        values = dict.fromkeys(needed, "0123456789abcdef")
        return yaml.safe_load(filled_in(text_of(COMPOSE), values))

    def test_follows_the_compose_specification(self, project):
        compose_spec = pytest.importorskip("compose_spec", reason="needs compose-spec")

        class Plain(yaml.SafeDumper):
            def ignore_aliases(self, data):
                return True

        parsed = compose_spec.PyCompose.from_yaml(yaml.dump(project, Dumper=Plain))
        parsed.validate()  # named volumes, networks and secrets exist
        assert set(parsed.service_names()) == set(project["services"])

    def test_the_file_for_gpus_reserves_them_as_compose_knows_it(self, project):
        compose_spec = pytest.importorskip("compose_spec", reason="needs compose-spec")
        gpus = yaml.safe_load(text_of("deploy/compose/compose.gpu.yaml"))
        (name,) = gpus["services"]
        ours, theirs = project["services"][name]["deploy"], gpus["services"][name]["deploy"]
        merged = ours | theirs | {"resources": ours["resources"] | theirs["resources"]}
        (device,) = merged["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        assert merged["replicas"] == 1  # Ray would offer each GPU once per worker
        service = {**project["services"][name], "deploy": merged}
        services = {**project["services"], name: service}
        text = yaml.dump({**project, "services": json.loads(json.dumps(services))})
        compose_spec.PyCompose.from_yaml(text).validate()

    def test_secrets_come_from_the_environment_and_missing_ones_are_told(self, needed):
        raw = yaml.safe_load(text_of(COMPOSE))
        told = set()
        for service in raw["services"].values():
            for name, value in service.get("environment", {}).items():
                if SECRET_NAME.search(name):
                    match = VARIABLE.fullmatch(value)
                    assert match, f"{name} is written out"
                    assert match[2] == "?", f"{name} may be empty"
                    assert f"set {match[1]} in deploy/compose/.env" in match[3]
                    told.add(match[1])
        assert told == needed
        with pytest.raises(AssertionError, match="is needed and not set"):
            filled_in(text_of(COMPOSE), {})

    def test_the_example_names_every_optional_variable_with_its_default(self):
        example = dict(re.findall(r"^#(\w+)=(.*)$", text_of("deploy/compose/env.example"), re.M))
        used = {m[1]: m[3] for m in VARIABLE.finditer(text_of(COMPOSE)) if m[2] == "-"}
        assert example == used | {
            "TORCH_INDEX": re.search(r"^ARG TORCH_INDEX=(.*)$", text_of(DOCKERFILE), re.M)[1]
        }

    def test_ports_are_open_to_this_machine_only(self, project):
        published = [port for s in project["services"].values() for port in s.get("ports", [])]
        assert len(published) == 2
        assert all(port.startswith("127.0.0.1:") for port in published)
        assert all("network_mode" not in s for s in project["services"].values())

    def test_what_is_waited_for_can_become_true(self, project):
        services = project["services"]
        for service in services.values():
            for name, rule in service.get("depends_on", {}).items():
                if rule["condition"] == "service_healthy":
                    assert "healthcheck" in services[name]
                else:
                    assert rule["condition"] == "service_completed_successfully"
                    assert services[name]["restart"] == "no"
        lasting = {name for name, s in services.items() if s["restart"] != "no"}
        assert {name for name, s in services.items() if "healthcheck" in s} == lasting
        assert set(services["ray-worker"]["depends_on"]) == {"ray-head"}

    def test_every_ray_node_sees_the_home_folder_under_the_same_path(self, project):
        home = re.search(r"PAS_HOME=(\S+)", text_of(DOCKERFILE))[1]
        mounts = [project["services"][name]["volumes"] for name in ("ray-head", "ray-worker")]
        assert mounts[0] == mounts[1]
        assert home.startswith(mounts[0][0].partition(":")[2] + "/")

    def test_ray_asks_for_the_token_and_nodes_gain_no_rights(self, project):
        for name in ("ray-head", "ray-worker"):
            service = project["services"][name]
            assert service["environment"]["RAY_AUTH_MODE"] == "token"
            assert service["environment"]["RAY_AUTH_TOKEN"]
            assert service["cap_drop"] == ["ALL"]

    @pytest.mark.parametrize("name", ["ray-head", "ray-worker", "mlflow"])
    def test_commands_exist(self, project, name):
        check_command_line(project["services"][name]["command"])

    def test_mlflow_server_is_reached_by_the_name_that_it_allows(self, project):
        services = project["services"]
        uri = services["ray-head"]["environment"]["MLFLOW_TRACKING_URI"]
        hosts = option(services["mlflow"]["command"], "--allowed-hosts")[0].split(",")
        assert uri == f"http://{hosts[0]}"
        assert services["mlflow"]["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
        assert "basic-auth" in option(services["mlflow"]["command"], "--app-name")

    def test_mlflow_reads_its_users_settings(self, project, monkeypatch):
        from mlflow.server.auth.config import read_auth_config

        env = project["services"]["mlflow"]["environment"]
        for name in ("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"):
            monkeypatch.setenv(name, env[name])
        monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(DEPLOY / "compose/mlflow-auth.ini"))
        config = read_auth_config()
        assert config.admin_password == env["MLFLOW_AUTH_ADMIN_PASSWORD"]
        assert (
            config.admin_username
            == (project["services"]["ray-head"]["environment"]["MLFLOW_TRACKING_USERNAME"])
        )
        backend = option(project["services"]["mlflow"]["command"], "--backend-store-uri")
        assert [config.database_uri] == backend


def test_ray_knows_the_setting_that_turns_token_authentication_on():
    from ray._private.authentication import authentication_token_setup as setup

    assert setup.AUTH_MODE_ENV_VAR == "RAY_AUTH_MODE"
    assert str(setup._get_default_token_path()).endswith("/.ray/auth_token")
    done = subprocess.run(  # a process of its own: Ray reads the variable once
        [
            sys.executable,
            "-c",
            "from ray._raylet import get_authentication_mode as mode, AuthenticationMode as m;"
            "assert mode() == m.TOKEN",
        ],
        env={**os.environ, "RAY_AUTH_MODE": "token"},
        check=False,
    )
    assert done.returncode == 0
