"""The two scripts that borrow TPU slices, and what their cloud answers in the tests."""

MISSING = "1 ERROR: NOT_FOUND: the resource was not found"
CODE_0 = "ended with code 0\n"
ENDED = f"0 step 1\nstep 2\n{CODE_0}"
# How each script's cloud says in which state the slice is.
TPU = {"ready": "0 ACTIVE", "queued": "0 WAITING_FOR_RESOURCES", "gone": "0 SUSPENDED"}
HOST = {"ready": "0 x\tRUNNING", "queued": "0 x\tPENDING", "gone": "0 x\tTERMINATED"}
SCRIPTS = {
    "tpu.sh": (TPU, {"TPU": "x", "TYPE": "v6e-8", "ZONE": "us-east5-a"}),
    "tpu_compute.sh": (
        HOST,
        {"TPU": "x", "MACHINE": "ct6e-standard-8t", "PROJECT": "p", "ZONE": "z-1-a"},
    ),
}
GROUP = SCRIPTS["tpu_compute.sh"][1] | {
    "MACHINE": "ct6e-standard-4t",
    "TOPOLOGY": "2x4",
}
TWO_RUNNING = "0 x-b\tRUNNING\nx-a\tRUNNING\n"
RUN = ["send", "install", "start", "follow"]
MADE = ["state", "create", "state", *RUN, "delete"]
