"""deploy/slurm/sweep.sbatch, run for real with stand-ins for Slurm, Ray and ``pas``."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time

import pytest
from cluster_files import ROOT, check_command_line, text_of, tool

SCRIPT = ROOT / "deploy/slurm/sweep.sbatch"
LOG = 'echo "$(basename "$0") $*" >> "$STAGE/log"'
STAND_INS = {
    "scontrol": "printf 'n1\\nn2\\nn3\\n'",
    "sleep": "exec /bin/sleep 0.05",
    # A step of Ray's counts as a joined node after a while, and lasts until it is told to end.
    # Slurm's own hands on what SLURM_EXPORT_ENV names; sbatch --export sets it.
    "srun": f"""{LOG}
        case "${{SLURM_EXPORT_ENV:-ALL}}" in ALL) ;; *) unset RAY_AUTH_MODE RAY_AUTH_TOKEN ;; esac
        echo "step token ${{RAY_AUTH_MODE:-none}} ${{RAY_AUTH_TOKEN:-none}}" >> "$STAGE/log"
        case "$*" in
            *hostname*) echo '10.0.0.1 fe80::1'; exit ;;
        esac
        trap 'echo "ended $*" >> "$STAGE/log"; exit 143' TERM
        /bin/sleep 0.3; echo x >> "$STAGE/joined"
        while true; do /bin/sleep 0.05; done""",
    "python3": """case "$*" in
            *secrets*) echo 5ec12e7 ;;
            *) { cat "$STAGE/joined" 2> /dev/null || true; } | wc -l ;;
        esac""",
    "ray": "exit 1",
    "pas": f"""{LOG}
        echo "token $RAY_AUTH_MODE $RAY_AUTH_TOKEN at $RAY_ADDRESS" >> "$STAGE/log"
        echo "joined $(wc -l < "$STAGE/joined")" >> "$STAGE/log"
        trap '/bin/sleep 0.3; echo "pas closed its runs" >> "$STAGE/log"; exit 130' TERM
        [[ -z ${{PAS_LASTS:-}} ]] || while true; do /bin/sleep 0.05; done
        exit "${{PAS_EXITS:-0}}\"""",
}


@pytest.fixture
def job(tmp_path):
    """Start the script as Slurm would; the stand-ins write what they were asked into a log."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\nset -eu\n{body}\n")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "STAGE": str(tmp_path),
        "PAS_HOME": "/shared/home",
        "SLURM_JOB_ID": "1234",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_CPUS_ON_NODE": "8",
    }
    started = []

    def start(*arguments, **variables):
        process = subprocess.Popen(
            ["bash", SCRIPT, *arguments],
            env={k: v for k, v in (environment | variables).items() if v},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        process.log = lambda: (tmp_path / "log").read_text().splitlines()
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


def wait_for(condition):
    for _ in range(400):
        try:
            if condition():
                return
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    raise AssertionError("has not happened")


def test_shellcheck_has_no_complaint():
    done = subprocess.run([tool("shellcheck"), SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_slurm_is_asked_for_a_signal_in_time_for_the_script_itself():
    options = re.findall(
        r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text_of("deploy/slurm/sweep.sbatch"), re.M
    )
    asked = dict(options)
    assert re.fullmatch(r"B:TERM@\d+", asked["signal"])
    assert {"nodes", "ntasks-per-node", "exclusive", "requeue", "time"} <= set(asked)
    assert os.access(SCRIPT, os.X_OK)


def test_sweep_runs_once_all_nodes_have_joined_and_gets_its_options(job):
    process = job("my sweep.yaml", "--set", "seed=1")
    assert process.wait(30) == 0
    log = process.log()
    assert "pas sweep my sweep.yaml --address auto --set seed=1" in log
    check_command_line(["pas", "sweep", "my sweep.yaml", "--address", "auto", "--set", "seed=1"])
    assert "joined 3" in log
    assert "token token 5ec12e7 at 10.0.0.1:21234" in log
    assert len([line for line in log if line.startswith("ended")]) == 3


def test_ray_is_started_on_every_node_by_commands_that_exist(job):
    process = job("s.yaml")
    assert process.wait(30) == 0
    steps = [
        shlex.split(line) for line in process.log() if line.startswith("srun") and " ray " in line
    ]
    nodes = [word.partition("=")[2] for step in steps for word in step if "--nodelist" in word]
    assert nodes[0] == "n1"  # the head comes first
    assert sorted(nodes) == ["n1", "n2", "n3"]
    for step in steps:
        check_command_line(step[step.index("ray") :])
    assert "--head" in steps[0]
    assert all("--address=10.0.0.1:21234" in step for step in steps[1:])


@pytest.mark.parametrize("exported", ["", "ALL", "NONE", "PATH,PAS_HOME"])
def test_every_step_has_the_token_whatever_sbatch_was_told_to_export(job, exported):
    process = job("s.yaml", SLURM_EXPORT_ENV=exported)
    assert process.wait(30) == 0
    steps = [line for line in process.log() if line.startswith("step token")]
    assert steps[1:] == ["step token token 5ec12e7"] * 3  # the first asks for the head's address


def test_exit_status_is_that_of_the_sweep_and_ray_is_ended(job):
    process = job("s.yaml", PAS_EXITS="1")
    assert process.wait(30) == 1
    assert len([line for line in process.log() if line.startswith("ended")]) == 3


def test_a_signal_lets_the_sweep_close_its_runs_before_ray_ends(job):
    process = job("s.yaml", PAS_LASTS="yes")
    wait_for(lambda: any(line.startswith("joined") for line in process.log()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    log = process.log()
    ended = [i for i, line in enumerate(log) if line.startswith("ended")]
    assert len(ended) == 3
    assert log.index("pas closed its runs") < min(ended)


def test_a_signal_before_the_sweep_ends_ray_at_once(job):
    process = job("s.yaml", PAS_JOIN_TIMEOUT="60")
    wait_for(lambda: any("--head" in line for line in process.log()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert not [line for line in process.log() if line.startswith("pas")]


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "told"),
    [
        ([], {}, 2, "usage: sbatch sweep.sbatch FILE"),
        (["s.yaml"], {"PAS_HOME": ""}, 1, "set PAS_HOME to a folder that every node sees"),
        (["s.yaml"], {"PATH": "/usr/bin:/bin"}, 2, "pas is not found; activate the environment"),
        (["s.yaml"], {"PAS_JOIN_TIMEOUT": "0"}, 1, "of 1 nodes have joined"),
    ],
)
def test_what_is_missing_is_told(job, arguments, variables, status, told):
    process = job(*arguments, **variables)
    assert told in process.communicate(timeout=30)[1]
    assert process.returncode == status
