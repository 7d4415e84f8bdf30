"""Programs that load an image set in a separate process."""

import os
import subprocess
import sys

# In other processes.

SMALL_CHUNKS = "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 1000;"  # treats the files as large
LOAD = "from experiments.data.cache import load; found = load({name!r}); print(found.train_x.sum(), *found.train_y)"
WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys(['datasets', 'pyarrow', 'PIL', 'huggingface_hub', 'filelock']));"
)


def start(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )


def finish(process, status=0):
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    return out if status == 0 else err.strip().splitlines()[-1]
