"""Manifests for KubeRay: checked by Kubernetes' schemas and a list of KubeRay's fields."""

from __future__ import annotations

import shlex

import pytest
from cluster_files import PINNED, SECRET_NAME, check_command_line, documents, option

# What KubeRay's custom resources hold (ray.io/v1, KubeRay 1.5): needed fields, then others in use.
CLUSTER_FIELDS = (
    {"headGroupSpec"},
    {
        "authOptions",
        "autoscalerOptions",
        "enableInTreeAutoscaling",
        "rayVersion",
        "workerGroupSpecs",
    },
)
HEAD_FIELDS = ({"template", "rayStartParams"}, {"serviceType"})
WORKER_FIELDS = (
    {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"},
    {"replicas"},
)
JOB_FIELDS = (
    {"entrypoint", "rayClusterSpec"},
    {
        "backoffLimit",
        "shutdownAfterJobFinishes",
        "submissionMode",
        "submitterPodTemplate",
        "ttlSecondsAfterFinished",
    },
)


class TestKubeRay:
    @pytest.fixture(scope="class")
    def cluster(self):
        return documents("deploy/kuberay/raycluster.yaml")[0]

    @pytest.fixture(scope="class")
    def job(self):
        return documents("deploy/kuberay/rayjob.yaml")[0]

    @pytest.fixture(scope="class")
    def templates(self, cluster, job):
        specs = [cluster["spec"], job["spec"]["rayClusterSpec"]]
        groups = [g for s in specs for g in (s["headGroupSpec"], *s["workerGroupSpecs"])]
        return [*(g["template"] for g in groups), job["spec"]["submitterPodTemplate"]]

    def test_kubernetes_accepts_pods_storage_and_network_rules(self, templates):
        kubernetes = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
        for document in documents("deploy/kuberay/shared.yaml"):
            kubernetes.validate(document, "1.33", strict=True)
        for template in templates:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
            kubernetes.validate(pod, "1.33", strict=True)

    def test_a_misspelt_field_would_be_refused(self, templates):
        kubernetes = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
        spec = templates[0]["spec"] | {"containrs": []}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        with pytest.raises(kubernetes.ValidationError):
            kubernetes.validate(pod, "1.33", strict=True)

    def test_custom_resources_have_the_fields_that_kuberay_knows(self, cluster, job):
        def check(tree, fields):
            needed, others = fields
            assert needed <= set(tree) <= needed | others

        assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
        assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
        check(job["spec"], JOB_FIELDS)
        for spec in (cluster["spec"], job["spec"]["rayClusterSpec"]):
            check(spec, CLUSTER_FIELDS)
            check(spec["headGroupSpec"], HEAD_FIELDS)
            for group in spec["workerGroupSpecs"]:
                check(group, WORKER_FIELDS)
                assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                assert all(isinstance(v, str) for v in group["rayStartParams"].values())
            assert spec["rayVersion"] == PINNED["ray"]
            assert spec["authOptions"] == {"mode": "token"}

    def test_ray_start_parameters_exist(self, cluster, job):
        for spec in (cluster["spec"], job["spec"]["rayClusterSpec"]):
            params = spec["headGroupSpec"]["rayStartParams"]
            check_command_line(
                ["ray", "start", "--head", *(f"--{k}={v}" for k, v in params.items())]
            )

    def test_the_job_runs_a_sweep(self, job):
        words = shlex.split(job["spec"]["entrypoint"])
        assert words[:2] == ["pas", "sweep"]
        check_command_line(words)
        assert option(words, "--address") == ["auto"]

    def test_containers_are_bounded_and_without_rights(self, templates):
        for template in templates:
            security = template["spec"]["securityContext"]
            assert security["runAsNonRoot"] is True
            assert security["runAsUser"] == 1000  # the image's
            for container in template["spec"]["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert set(container["resources"]["requests"]) == {"cpu", "memory"}
                assert {"cpu", "memory"} <= set(container["resources"]["limits"])

    def test_secrets_are_references(self, templates):
        variables = [
            v for t in templates for c in t["spec"]["containers"] for v in c.get("env", [])
        ]
        secret = [v for v in variables if SECRET_NAME.search(v["name"])]
        assert secret
        assert all("secretKeyRef" in variable["valueFrom"] for variable in secret)

    def test_every_node_sees_the_home_folder_on_storage_for_many_writers(self, templates):
        claim = documents("deploy/kuberay/shared.yaml")[0]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        for template in templates[:-1]:
            (volume,) = template["spec"]["volumes"]
            assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
            (container,) = template["spec"]["containers"]
            (mount,) = container["volumeMounts"]
            env = {v["name"]: v.get("value") for v in container["env"]}
            assert mount["name"] == volume["name"]
            assert env["PAS_HOME"].startswith(mount["mountPath"] + "/")

    def test_only_its_own_pods_and_the_operator_reach_ray(self, templates):
        policy = documents("deploy/kuberay/shared.yaml")[1]["spec"]
        labels = policy["podSelector"]["matchLabels"]
        assert all(labels.items() <= t["metadata"]["labels"].items() for t in templates)
        own, operator = policy["ingress"][0]["from"]
        assert own["podSelector"]["matchLabels"] == labels
        assert set(operator) == {"namespaceSelector"}
