"""Ray's launcher for AWS: checked by Ray and by the models of AWS's interfaces, offline."""

from __future__ import annotations

import json
import re
import shlex
import subprocess

import pytest
from cluster_files import DEPLOY, DOCKERFILE, check_command_line, documents, option, text_of, tool

from deploy.published import MODELS
from deploy.store_errors import FILES


class TestAws:
    @pytest.fixture
    def config(self):
        return documents("deploy/aws/cluster.yaml")[0]

    @pytest.fixture
    def prepared(self, config):
        """Return the file as Ray's launcher completes it, before it speaks to AWS."""
        from ray.autoscaler._private.util import prepare_config

        return prepare_config(config)

    def test_ray_accepts_it(self, prepared):
        from ray.autoscaler._private.util import validate_config

        validate_config(prepared)

    def test_ray_refuses_it_with_a_misspelt_key(self, prepared):
        import jsonschema
        from ray.autoscaler._private.util import validate_config

        with pytest.raises(jsonschema.ValidationError):
            validate_config(prepared | {"idle_timeout": 10})

    def test_ray_adds_no_install_commands_of_its_own(self, prepared):
        assert prepared["head_setup_commands"] == prepared["worker_setup_commands"] == []

    def test_ec2_knows_every_setting_of_a_machine(self, prepared):
        import botocore.session
        from botocore.validate import ParamValidator

        model = botocore.session.get_session().get_service_model("ec2")
        shape = model.operation_model("RunInstances").input_shape
        for node_type in prepared["available_node_types"].values():
            asked = {**node_type["node_config"], "MinCount": 1, "MaxCount": 1}
            assert set(asked) <= set(shape.members)
            report = ParamValidator().validate(asked, shape)
            assert not report.has_errors(), report.generate_report()

    def test_head_is_on_demand_and_workers_are_spot(self, prepared):
        types = prepared["available_node_types"]
        assert "InstanceMarketOptions" not in types["head"]["node_config"]
        worker = types["worker"]
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
        assert 1 <= worker["min_workers"] <= worker["max_workers"] <= prepared["max_workers"]
        assert prepared["provider"]["cache_stopped_nodes"] is False

    def test_machines_have_roles_groups_and_no_keys(self, prepared):
        for node_type in prepared["available_node_types"].values():
            config = node_type["node_config"]
            assert config["IamInstanceProfile"]["Name"].startswith("pas-")
            assert config["SecurityGroupIds"]  # else Ray makes one with SSH open to all
            assert config["MetadataOptions"]["HttpTokens"] == "required"
        assert "aws_credentials" not in prepared["provider"]

    def test_dashboard_listens_on_loopback_and_the_token_is_there(self, prepared):
        start = shlex.split(prepared["head_start_ray_commands"][-1])
        assert option(start, "--dashboard-host") == ["127.0.0.1"]
        assert "RAY_AUTH_MODE=token" in text_of(DOCKERFILE)
        assert "~/.ray/auth_token" in prepared["file_mounts"]

    def test_commands_exist(self, prepared):
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            for line in prepared[key]:
                check_command_line(shlex.split(line.replace("$RAY_HEAD_IP", "10.0.0.1")))

    def test_shared_storage_is_mounted_before_the_container_starts(self, prepared):
        home = re.search(r"PAS_HOME=(\S+)", text_of(DOCKERFILE))[1]
        outside, inside = option(prepared["docker"]["run_options"], "--volume")[0].split(":")
        assert home.startswith(inside + "/")
        mounts = [c for c in prepared["initialization_commands"] if "mount -t nfs4" in c]
        assert len(mounts) == 1
        assert f":/ {outside}" in mounts[0]

    def test_shell_commands_are_sound(self, prepared):
        lines = [*prepared["initialization_commands"], *prepared["head_start_ray_commands"]]
        script = "#!/bin/bash\n" + "\n".join(lines) + "\n"
        done = subprocess.run(
            [tool("shellcheck"), "-"], input=script, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout

    def test_the_head_touches_machines_of_its_own_cluster_alone(self, config):
        """Who could name any machine of the account as one of the cluster's could end it."""
        own = {"StringEquals": {"aws:ResourceTag/ray-cluster-name": config["cluster_name"]}}
        new = {"StringEquals": {"ec2:CreateAction": "RunInstances"}}
        allowed = {"ec2:CreateTags": [new, own], "ec2:TerminateInstances": [own]}
        policy = json.loads((DEPLOY / "aws/head-policy.json").read_text())
        for action, conditions in allowed.items():
            found = [s.get("Condition") for s in policy["Statement"] if action in s["Action"]]
            assert found == conditions, action

    @pytest.mark.parametrize("name", ["head-policy.json", "worker-policy.json"])
    def test_policies_allow_named_actions_that_exist(self, name):
        import botocore.session

        policy = json.loads((DEPLOY / "aws" / name).read_text())
        session = botocore.session.get_session()
        for statement in policy["Statement"]:
            assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
            for action in statement["Action"]:
                service, operation = action.split(":")
                assert "*" not in operation
                if service in {"ec2", "ecr"}:
                    known = session.get_service_model(service).operation_names
                    assert operation in known, action

    @pytest.mark.parametrize("name", ["head-policy.json", "worker-policy.json"])
    @pytest.mark.parametrize("use", [FILES, MODELS])
    def test_policies_allow_what_stores_need(self, name, use):
        policy = json.loads((DEPLOY / "aws" / name).read_text())
        granted = {action for statement in policy["Statement"] for action in statement["Action"]}
        needed = set(re.findall(r"s3:\w+", use.rights))
        assert needed <= granted
        assert "s3:AbortMultipartUpload" in needed  # where objects are written in parts
