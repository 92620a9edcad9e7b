"""A disk that is full or read-only, at each kind of write: one line, and what was there is there.

Each command runs in a mount namespace, where such a disk lies over its folder: for root too.
"""

import hashlib
import json
import re
import shutil
import sys

import pytest

# Python that a process runs before the command; the process that does it waits for the command, to
# say what the disk holds in the end.
MOUNT = """
import ctypes, hashlib, json, pathlib, subprocess
libc, ids = ctypes.CDLL(None), {{"uid": os.geteuid(), "gid": os.getegid()}}
NEWNS, NEWUSER = 0x20000, 0x10000000
if libc.unshare(NEWNS):
    if libc.unshare(NEWNS | NEWUSER):
        os._exit(77)
    pathlib.Path("/proc/self/setgroups").write_text("deny")
    for kind, number in ids.items():
        pathlib.Path(f"/proc/self/{{kind}}_map").write_text(f"0 {{number}} 1")

def mount(*words):
    subprocess.run(["mount", *words], check=True)

mount("--make-rprivate", "/")
mount("-t", "tmpfs", "-o", "size={size}", "tmpfs", "disk")
subprocess.run(["cp", "-a", "{before}/.", "disk"], check=True)
if {read_only}:
    mount("-o", "remount,bind,ro", "disk")
if child := os.fork():
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    disk = pathlib.Path("disk")
    files = [each for each in disk.rglob("*") if each.is_file() and not each.is_symlink()]
    hashes = {{
        str(each.relative_to(disk)): hashlib.sha256(each.read_bytes()).hexdigest() for each in files
    }}
    pathlib.Path("left.json").write_text(json.dumps(hashes))
    os._exit(code)
os.chdir("disk")
"""
# Fills the disk when the process is about to write the file of that name.
FULL_AT = """
import contextlib, re

def fill(event, arguments, full=[]):
    if event == "open" and not full and re.search(r"/{name}.*\\.partial$", str(arguments[0])):
        full.append(True)
        with contextlib.suppress(OSError), open("filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

sys.addaudithook(fill)
"""
TRAIN = (
    *("data=digits", "data.batch_size=16", "data.val_size=20", "data.eval_batch_size=20"),
    *("model=resnet_tiny", "model.widths=[4,4,4,4]", "trainer=cpu", "trainer.max_epochs=1"),
    *("trainer.limit_train_batches=2", "trainer.limit_test_batches=1", "method=regular"),
    *("robust_accuracy.steps=[1]", "robust_accuracy.test_steps=[1]"),
)
RUN = ("train", *TRAIN, "hydra.run.dir=run")
PAPER = (
    *("evaluate", "runs=[run]", "n_images=40", "suite.steps=2", "suite.table=[2]"),
    *("suite.logits_at=2", "keep_images=true"),
)
READ_ONLY, PAGE, ROOM = None, 4096, 4096  # KiB of room
# What is told of the place; what runs; what is there; how many KiB are free, or until which file
# there is room.
WRITES = {
    "first start": (r"run", (*RUN, "logger=csv"), "nothing", READ_ONLY),
    "first start, full": (r"the run directory", (*RUN, "logger=csv"), "nothing", 4),
    "configuration": (r".*/config\.yaml", (*RUN, "logger=csv"), "unfinished", 0),
    "checkpoint": (r".*/last\.ckpt", (*RUN, "logger=csv"), "nothing", 40),
    "W&B": (
        r".*/(metrics\.csv|status\.json|last\.ckpt)",
        (*RUN, "logger=wandb", "logger.wandb.mode=offline"),
        "nothing",
        48,
    ),
    "TensorBoard": (r"run(/tensorboard\S*)?", (*RUN, "logger=tensorboard"), "nothing", 24),
    "record": (r".*/record\.json", (*RUN, "logger=csv"), "unfinished", "record"),
    "log of a run": (r".*/train\.log", (*RUN, "logger=csv"), "unfinished", READ_ONLY),
    "sweep": (r"runs", ("train", "-m", "seed=0,1", *TRAIN, "logger=csv"), "nothing", READ_ONLY),
    "cache, read-only": (r"run/.*\.lock", PAPER, "finished", READ_ONLY),
    "cache": (r"run/.*\.npz", PAPER, "finished", 0),
    "kept images": (r"run/.*\.npz", PAPER, "finished", 28),
    "evaluation": (r"run/.*\.json", PAPER, "finished", "paper-\\w+\\.json"),
    "transfer": (
        r"t/.*\.npz",
        ("transfer", "sources=[run]", "targets=[run]", "steps=1", "n_images=20", "out=t"),
        "finished",
        0,
    ),
    "export": (r"out/model\.safetensors", ("export", "run=run", "out=out"), "finished", 0),
    "export again": (
        r"out/model\.safetensors",
        ("export", "run=run", "out=out"),
        "exported",
        READ_ONLY,
    ),
    "report": (r"report/.*", ("report", "runs_dir=[run]"), "finished", 8),
    "report, read-only": (r"report", ("report", "runs_dir=[run]"), "finished", READ_ONLY),
}
# What each start of a run writes anew.
OF_A_START = re.compile(r"run/(\.lock|status\.json|\.hydra/.*)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, in_folder):
    """A folder with what may be there before, by its name in ``WRITES``."""
    folder = tmp_path_factory.mktemp("disks")
    for name in ("disk", "nothing", "finished"):
        (folder / name).mkdir()
    made = in_folder(folder / "finished")
    made.run("lrm_lightning.train", *RUN[1:], "logger=csv")
    shutil.copytree(folder / "finished", folder / "exported")
    in_folder(folder / "exported").run("lrm_lightning.export", "run=run", "out=out")
    shutil.copytree(folder / "finished", folder / "unfinished")
    (folder / "unfinished/run/record.json").unlink()
    return folder


def hashes(folder):
    files = [each for each in folder.rglob("*") if each.is_file()]
    return {
        str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in files
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux's")
@pytest.mark.parametrize("name", WRITES)
def test_a_disk_that_takes_nothing(name, folder, in_folder):
    where, (module, *arguments), before, free = WRITES[name]
    sizes = [each.stat().st_size for each in (folder / before).rglob("*") if each.is_file()]
    room = ROOM if isinstance(free, str) else free or 0
    size = sum(-size // PAGE * -PAGE for size in sizes) + 1024 * room or PAGE
    prelude = MOUNT.format(before=before, size=size, read_only=free is READ_ONLY)
    if isinstance(free, str):
        prelude += FULL_AT.format(name=free)
    run = in_folder(folder).start(f"lrm_lightning.{module}", *arguments, prelude=prelude)
    run.process.join(300)
    if run.process.exitcode == 77:
        pytest.skip("this machine allows no mount namespace")
    line = run.error()
    why = "Read-only file system" if free is READ_ONLY else "No space left on device"
    mend = r"(make it writable|free space) or choose another .*"
    assert re.search(rf"cannot write (to )?\S*{where}: .*{why}.*; {mend}$", line), line
    there = hashes(folder / before)
    left = json.loads((folder / "left.json").read_text())
    lost = {each for each in there if left.get(each) != there[each]}
    assert not {each for each in lost if not OF_A_START.fullmatch(each)}
