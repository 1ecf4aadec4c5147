"""Runs on Kubernetes: what is submitted is valid, and how a run there ends."""

import re
import shlex
import signal
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml
from fake_tools import AWKWARD, FLAGS, LAUNCH, TIMEOUT, Fakes

SETTINGS = {"NAME": "x2", "IMAGE": "images.example/hkdnet:v1", "HOSTS": "4"}
KINDS = {
    "tpu": SETTINGS | {"TOPOLOGY": "4x4"},
    "gpu": SETTINGS,
    "fuse": SETTINGS | {"CLAIM": "data"},
}
KUBERNETES = "1.35"
TEXT = {"type": "string"}
QUANTITY = {"type": ["integer", "string"], "pattern": r"^[0-9]+(m|[KMGT]i?)?$"}


def _object(required, **properties):
    """A schema of an object that has no other properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _kind(version, kind, spec):
    metadata = {
        "name": {"type": "string", "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$"},
        "namespace": TEXT,
        "labels": {"type": "object", "additionalProperties": TEXT},
        "annotations": {"type": "object", "additionalProperties": TEXT},
    }
    return _object(
        "apiVersion kind metadata" + (" spec" if spec["required"] else ""),
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=_object("name", **metadata),
        spec=spec,
    )


def _list(item):
    return {"type": "array", "items": item, "minItems": 1}


# Written from the types of JobSet (api/jobset/v1alpha2) and Kueue (apis/kueue/v1beta2),
# as far as the manifests use them.  A Job itself is checked by Kubernetes' own schema.
JOBSET = _kind(
    "jobset.x-k8s.io/v1alpha2",
    "JobSet",
    _object(
        "replicatedJobs failurePolicy ttlSecondsAfterFinished",
        ttlSecondsAfterFinished={"type": "integer", "minimum": 0},
        network=_object(
            "",
            enableDNSHostnames={"type": "boolean"},
            publishNotReadyAddresses={"type": "boolean"},
        ),
        failurePolicy=_object(
            "maxRestarts",
            maxRestarts={"type": "integer", "minimum": 0},
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules=_list(
                _object(
                    "name action",
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*)$"},
                    action={"enum": ["FailJobSet", "RestartJobSet"]},
                    onJobFailureReasons=_list(
                        {"enum": ["BackoffLimitExceeded", "DeadlineExceeded"]}
                    ),
                )
            ),
        ),
        replicatedJobs=_list(
            _object(
                "name template",
                name=TEXT,
                replicas={"type": "integer"},
                template={"type": "object"},
            )
        ),
    ),
)
KUEUE = {
    "ResourceFlavor": _kind("kueue.x-k8s.io/v1beta2", "ResourceFlavor", _object("")),
    "LocalQueue": _kind(
        "kueue.x-k8s.io/v1beta2",
        "LocalQueue",
        _object("clusterQueue", clusterQueue=TEXT),
    ),
    "ClusterQueue": _kind(
        "kueue.x-k8s.io/v1beta2",
        "ClusterQueue",
        _object(
            "namespaceSelector resourceGroups",
            namespaceSelector={"type": "object"},
            preemption=_object("", withinClusterQueue={"enum": ["LowerPriority"]}),
            resourceGroups=_list(
                _object(
                    "coveredResources flavors",
                    coveredResources=_list(TEXT),
                    flavors=_list(
                        _object(
                            "name resources",
                            name=TEXT,
                            resources=_list(
                                _object(
                                    "name nominalQuota",
                                    name=TEXT,
                                    nominalQuota=QUANTITY,
                                )
                            ),
                        )
                    ),
                )
            ),
        ),
    ),
}


@pytest.fixture
def fakes(tmp_path):
    made = Fakes(tmp_path, ("kubectl",))
    made.answer(logs="0 step 1\n", state=["0 ", "0 Completed"])
    return made


def _submitted(fakes, kind, *arguments, **settings):
    """The manifest that is submitted."""
    done = fakes.run("gke/run.sh", kind, *arguments, *FLAGS, **(KINDS[kind] | settings))
    assert done.returncode == 0, done.stderr
    return yaml.safe_load((fakes.folder / "manifest").read_text())


def _job(manifest):
    """The Job of a manifest, as Kubernetes gets it."""
    if manifest["kind"] == "Job":
        return manifest
    jsonschema.validate(manifest, JOBSET)
    (replicated,) = manifest["spec"]["replicatedJobs"]
    head = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}}
    return head | replicated["template"]


def _container(job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container


# What is submitted


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_is_valid(fakes, kind):
    manifest = _submitted(fakes, kind, AWKWARD)
    job = _job(manifest)
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    assert "${" not in str(manifest)
    # A field that does not exist would be seen.
    job["spec"]["completionmode"] = "Indexed"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_a_jobset_with_an_unknown_field_would_be_seen(fakes):
    manifest = _submitted(fakes, "tpu")
    manifest["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.validate(manifest, JOBSET)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_bounded_and_cleaned_up(fakes, kind):
    manifest = _submitted(fakes, kind, LIMIT="90m", RESTARTS="3")
    labels = manifest["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/max-exec-time-seconds"] == "5400"
    assert labels["kueue.x-k8s.io/queue-name"] == "hkdnet"
    assert manifest["spec"]["ttlSecondsAfterFinished"] == 3600
    job = _job(manifest)["spec"]
    assert job["activeDeadlineSeconds"] == 5400
    if kind == "fuse":
        assert job["backoffLimitPerIndex"] == 3
    else:
        assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_arguments_arrive_as_they_are(fakes, kind):
    odd = ["a\\b", '"', "${NAME}", "${HOSTS} & $1", "", "ä: {x}"]
    odd = [f"--config.x={word}" for word in odd]
    job = _job(_submitted(fakes, kind, AWKWARD, *odd))
    # Kubernetes makes $(X) of $$(X), and puts a variable in place of $(X).
    expected = [word.replace("$(", "$$(") for word in (AWKWARD, *odd, *FLAGS)]
    assert _container(job)["args"] == expected


def test_a_pod_of_a_slice_is_told_by_the_cluster(fakes):
    manifest = _submitted(fakes, "tpu")
    job = _job(manifest)
    assert _container(job)["command"] == ["hkdnet", "train", "--coordinator=auto"]
    chips = _container(job)["resources"]
    assert chips["limits"]["google.com/tpu"] == chips["requests"]["google.com/tpu"] == 4
    selector = job["spec"]["template"]["spec"]["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4


def test_a_gpu_pod_gets_its_number_and_the_coordinator(fakes):
    manifest = _submitted(fakes, "gpu")
    (replicated,) = manifest["spec"]["replicatedJobs"]
    # The name of the first pod: set, job, number of the job, number of the pod.
    first = f"{manifest['metadata']['name']}-{replicated['name']}-0-0.x2"
    assert _container(_job(manifest))["command"] == [
        *("hkdnet", "train", f"--coordinator={first}:12321"),
        *("--processes=4", "--process=$(JOB_COMPLETION_INDEX)"),
    ]
    assert manifest["spec"]["network"]["enableDNSHostnames"]


def test_a_fusing_pod_does_its_share(fakes):
    job = _submitted(fakes, "fuse", "--ir", "/data/ir")
    assert _container(job)["command"][:2] == ["hkdnet", "fuse"]
    assert "--shard=$(JOB_COMPLETION_INDEX)/4" in _container(job)["command"]
    assert "--skip-existing" in _container(job)["command"], "a pod may be restarted"
    assert (
        job["spec"]["completionMode"] == "Indexed" and job["spec"]["completions"] == 4
    )


def test_the_queue_is_valid():
    text = (LAUNCH / "gke" / "kueue.yaml").read_text()
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        jsonschema.validate(document, KUEUE[document["kind"]])
    flavor, cluster, local = documents
    (group,) = cluster["spec"]["resourceGroups"]
    (quotas,) = group["flavors"]
    assert quotas["name"] == flavor["metadata"]["name"]
    assert [r["name"] for r in quotas["resources"]] == group["coveredResources"]
    assert local["spec"]["clusterQueue"] == cluster["metadata"]["name"]


# A run


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_submitted_followed_and_deleted(fakes, kind):
    if kind == "fuse":
        fakes.answer(state=["0 Suspended", "0 ", "0 SuccessCriteriaMet Complete"])
    done = fakes.run("gke/run.sh", kind, *FLAGS, **KINDS[kind])
    assert done.returncode == 0, done.stderr
    waited = ["state"] if kind == "fuse" else []
    assert fakes.steps() == ["create", *waited, "state", "logs", "state", "delete"]
    assert done.stdout == "step 1\n"
    assert "at most 14400 s" in done.stderr.splitlines()[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_prints_what_a_run_does(fakes, kind):
    done = fakes.run("gke/run.sh", "--dry-run", kind, AWKWARD, *FLAGS, **KINDS[kind])
    assert done.returncode == 0 and not fakes.calls()
    lines = done.stdout.splitlines()
    commands = [shlex.split(x) for x in lines if x.startswith("kubectl ")]
    manifest = "\n".join(x for x in lines if not x.startswith("kubectl "))
    assert yaml.safe_load(manifest) == _submitted(fakes, kind, AWKWARD)
    wet = [call[1:] for call in fakes.calls()]
    assert [w for i, w in enumerate(wet) if w not in wet[:i]] == commands


def test_no_quota_is_not_asked_again(fakes):
    fakes.answer(create="1 Error: forbidden: exceeded quota: compute")
    done = fakes.run("gke/run.sh", "tpu", *FLAGS, **KINDS["tpu"])
    assert done.returncode == 1 and "exceeded quota" in done.stderr
    assert fakes.steps() == ["create", "delete"]


def test_a_cluster_that_does_not_answer_is_asked_again(fakes):
    fakes.answer(create=["1 connection refused", "0 "])
    assert fakes.run("gke/run.sh", "tpu", *FLAGS, **KINDS["tpu"]).returncode == 0
    assert fakes.steps().count("create") == 2


def test_an_answer_that_was_lost(fakes):
    """The run was made, but the client did not hear of it."""
    fakes.answer(create=["1 i/o timeout", '1 jobsets "x2" already exists'])
    assert fakes.run("gke/run.sh", "tpu", *FLAGS, **KINDS["tpu"]).returncode == 0
    assert fakes.steps()[-1] == "delete"


def test_what_somebody_else_made_is_left_alone(fakes):
    fakes.answer(create='1 jobsets.jobset.x-k8s.io "x2" already exists')
    done = fakes.run("gke/run.sh", "tpu", *FLAGS, **KINDS["tpu"])
    assert done.returncode == 1 and fakes.steps() == ["create"]
    assert "x2 exists already" in done.stderr


def test_no_capacity_for_too_long(fakes):
    fakes.answer(state="0 Suspended")
    done = fakes.run("gke/run.sh", "tpu", *FLAGS, **KINDS["tpu"], WAIT="1s", POLL="1")
    assert done.returncode == 1 and "no capacity for x2 within 1 s" in done.stderr
    assert fakes.steps()[-1] == "delete"


def test_preempted_while_running(fakes):
    """The log ends, Kueue queues the run again, and the JobSet starts it again."""
    fakes.answer(
        state=["0 ", "0 Suspended", "0 ", "0 Completed"],
        logs=["255 step 1\n", "0 step 2\n"],
    )
    done = fakes.run("gke/run.sh", "tpu", *FLAGS, **KINDS["tpu"])
    assert done.returncode == 0 and done.stdout == "step 1\nstep 2\n"
    tails = [call[-1] for call in fakes.calls() if call[0] == "logs"]
    assert tails == ["--tail=-1", "--tail=20"], "the old lines are not printed again"


def test_a_pod_that_has_not_started_has_no_log(fakes):
    fakes.answer(
        state=["0 ", "0 ", "0 Completed"],
        logs=["1 container is waiting to start", "0 step 1\n"],
    )
    done = fakes.run("gke/run.sh", "tpu", *FLAGS, **KINDS["tpu"])
    assert done.returncode == 0 and done.stdout == "step 1\n"
    tails = [call[-1] for call in fakes.calls() if call[0] == "logs"]
    assert tails == ["--tail=-1"] * 2, "no line is left out"


def test_the_script_is_stopped(fakes):
    fakes.answer(logs="hang")
    process = subprocess.Popen(
        ["bash", LAUNCH / "gke" / "run.sh", "tpu", *FLAGS],
        env=fakes.environment(**KINDS["tpu"]),
        stderr=subprocess.PIPE,
    )
    fakes.wait_until_it_hangs()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 143
    assert fakes.steps()[-1] == "delete"


def test_a_run_that_failed_too_often(fakes):
    fakes.answer(state=["0 ", "0 Failed"], reason="0 reached max restarts")
    done = fakes.run("gke/run.sh", "gpu", *FLAGS, **KINDS["gpu"])
    assert done.returncode == 1 and "reached max restarts" in done.stderr
    assert fakes.steps()[-1] == "delete"


def test_a_run_that_somebody_deleted(fakes):
    fakes.answer(state=["0 ", '1 jobsets "x2" not found'])
    done = fakes.run("gke/run.sh", "tpu", *FLAGS, **KINDS["tpu"])
    assert done.returncode == 1 and "deleted by somebody else" in done.stderr
    assert "delete" not in fakes.steps()


def test_no_connection_any_more(fakes):
    fakes.answer(state="1 connection refused", delete="1 connection refused")
    done = fakes.run("gke/run.sh", "tpu", *FLAGS, **KINDS["tpu"])
    assert done.returncode == 1 and "not answered ten times" in done.stderr
    warning = next(x for x in done.stderr.splitlines() if x.startswith("WARNING"))
    by_hand = shlex.split(re.search(r"`(.*)`", warning)[1])
    assert by_hand == next(c[1:] for c in fakes.calls() if c[0] == "delete")


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("cpu", SETTINGS, "`cpu` is not a kind of run"),
        ("tpu", SETTINGS | {"NAME": ""}, "NAME: name the run"),
        ("tpu", SETTINGS | {"NAME": "X2"}, "the name X2 must be"),
        ("tpu", SETTINGS | {"IMAGE": ""}, "IMAGE: name the image"),
        ("tpu", SETTINGS | {"RESTARTS": "-1"}, "RESTARTS=-1 is not a whole number"),
        ("tpu", SETTINGS | {"HOSTS": "all"}, "HOSTS=all is not a number"),
        ("fuse", SETTINGS, "CLAIM: name the volume claim"),
    ],
)
def test_a_wrong_setting_is_named(fakes, kind, settings, says):
    done = fakes.run("gke/run.sh", kind, *FLAGS, **settings)
    assert done.returncode != 0 and says in done.stderr and not fakes.calls()


def test_a_run_is_not_kept_in_a_pod(fakes):
    flags = ("--config=configs/a.py", "--workdir=runs/x2")
    done = fakes.run("gke/run.sh", "tpu", *flags, **KINDS["tpu"])
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "give --workdir=gs://BUCKET/PATH" in line
    assert not fakes.calls()
