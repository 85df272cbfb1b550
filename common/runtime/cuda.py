"""CUDA as mxnet-cu112 needs it: the libraries, loaded before MXNet, the driver and the cards.

Nothing here imports MXNet: it tells whether MXNet can be imported at all.
"""

import contextlib
import ctypes
import glob
import importlib.metadata
import importlib.util
import os
import subprocess
from typing import List, NamedTuple, Optional, Tuple

from common.cli import UserError

from . import elf

# What libmxnet.so is linked against, each after what it needs itself, and the requirement that
# brings it: the last release of CUDA 11, and cuDNN 8. The extra 'cuda' in setup.cfg has the same.
REQUIREMENTS = {
    "libcudart.so.11.0": "nvidia-cuda-runtime-cu11 >=11.8, <12",
    "libnvrtc.so.11.2": "nvidia-cuda-nvrtc-cu11 >=11.8, <12",
    "libnvToolsExt.so.1": "nvidia-nvtx-cu11 >=11.8, <12",
    "libcublas.so.11": "nvidia-cublas-cu11 >=11.11, <12",
    "libcufft.so.10": "nvidia-cufft-cu11 >=10.9, <11",
    "libcurand.so.10": "nvidia-curand-cu11 >=10.3, <11",
    "libcusolver.so.11": "nvidia-cusolver-cu11 >=11.4.1, <12",
    "libcudnn.so.8": "nvidia-cudnn-cu11 >=8.9, <9",
    "libnccl.so.2": "nvidia-nccl-cu11 >=2.13, <3",
}
_DRIVER = "libcuda.so.1"  # comes with the driver only
_OLDEST_DRIVER = "450.80.02"  # from which on any CUDA 11 runs: its minor-version compatibility
_GET_DRIVER = f"install NVIDIA's driver, {_OLDEST_DRIVER} or later"
# The wheel has machine code for 5.0, 6.0, 7.0, 8.0 and 8.6, each of which runs on later ones of
# its major version, and no PTX, of which the driver could make code for others.
_OLDEST_CARD, _NEWEST_CARD = (5, 0), (8, 9)


def mxnet_library() -> Optional[str]:
    """Path of the installed libmxnet.so, None if there is none."""
    spec = importlib.util.find_spec("mxnet")
    folders = (spec.submodule_search_locations if spec else None) or []
    paths = [os.path.join(folder, "libmxnet.so") for folder in folders]
    return next(filter(os.path.exists, paths), None)


def is_needed() -> bool:
    """Whether the installed MXNet is built for CUDA 11.

    The library is asked, since the names of packages may mislead: mxnet and mxnet-cu112 put their
    files in one place, and where both are installed those that were written last count.
    """
    path = mxnet_library()
    return path is not None and "libcudart.so.11.0" in elf.needed(path)


def load_libraries() -> None:
    """Load what an MXNet for CUDA is linked against, so that its import finds it.

    Those of the system are taken where the dynamic linker knows all of them; else the packages'.

    Raises:
        UserError: there is no driver, or naming each library that is missing or of another
            version, and the package that has it.
    """
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        raise UserError(
            f"{_DRIVER}: not found, and this MXNet needs it even to use the CPU; {_GET_DRIVER}, or"
            " pip uninstall mxnet-cu112, then pip install mxnet==1.9.1"
        )
    paths = {} if on_system() else packaged()
    faults, remedies = [], []
    for name, requirement in REQUIREMENTS.items():
        try:
            ctypes.CDLL(paths.get(name, name), ctypes.RTLD_GLOBAL)
        except OSError as error:
            if name not in paths:
                faults.append(f"{name} is missing ({installed(requirement)})")
            elif not faults:  # else it may only need one that is missing
                faults.append(f"{name} cannot be loaded ({installed(requirement)}): {error}")
            else:
                continue
            remedies.append(f"'{requirement.replace(' ', '')}'")
    if faults:
        remedy = f"pip install --force-reinstall --no-deps {' '.join(remedies)}"
        raise UserError(f"CUDA libraries: {'; '.join(faults)}; {remedy}")
    _name_nvrtc()


def on_system() -> bool:
    """Whether the dynamic linker finds all the libraries in LD_LIBRARY_PATH or in its cache."""
    known = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["/sbin/ldconfig", "-p"]
        known = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    folders = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    found = {line.split()[0] for line in known.splitlines() if line.startswith("\t")}
    found.update(*(os.listdir(folder) for folder in folders if os.path.isdir(folder)))
    return found.issuperset(REQUIREMENTS)


def packaged() -> dict:
    """Library -> its path, of those that installed packages have."""
    spec = importlib.util.find_spec("nvidia")
    found = {}
    for folder in (spec.submodule_search_locations if spec else None) or []:
        for path in glob.glob(os.path.join(glob.escape(folder), "*", "lib", "*.so.*")):
            if os.path.basename(path) in REQUIREMENTS:
                found.setdefault(os.path.basename(path), path)
    return found


def installed(requirement: str) -> str:
    """'nvidia-cudnn-cu11 9.10.2.21': the requirement's package and the version that is there."""
    package = requirement.split()[0]
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package}: not installed"


def _name_nvrtc():
    """cuDNN and cuBLAS open NVRTC as libnvrtc.so, and its package has no file of that name."""
    try:
        ctypes.CDLL("libnvrtc.so")
    except OSError:
        file = os.memfd_create("libnvrtc.so")
        os.write(file, elf.alias("libnvrtc.so", "libnvrtc.so.11.2"))
        with contextlib.suppress(OSError):  # no /proc, or no code from such files: as it was
            ctypes.CDLL(f"/proc/self/fd/{file}", ctypes.RTLD_GLOBAL)
        os.close(file)


class Card(NamedTuple):
    """A GPU: its name, (major, minor) compute capability, and bytes of memory that are free."""

    name: str
    capability: Tuple[int, int]
    free: int

    def fault(self) -> Optional[str]:
        """Why MXNet cannot use it; None if it can."""
        has = f"{self.name} has compute capability {self.capability[0]}.{self.capability[1]}"
        if self.capability < _OLDEST_CARD:
            return f"{has}, too old: this MXNet has code for 5.0 to 8.9 (Maxwell to Ada)"
        if self.capability > _NEWEST_CARD:
            return (
                f"{has}, too new: this MXNet has code for 5.0 to 8.9 (Maxwell to Ada), and none"
                " that a driver could translate for later ones"
            )
        return None


def driver_and_cards() -> Tuple[str, List[Card]]:
    """The driver's version, and the GPUs in the order in which ``--gpus`` counts them.

    That is nvidia-smi's order, without those that CUDA_VISIBLE_DEVICES hides.

    Raises:
        UserError: nothing to ask with, no driver, one that does not answer, or one too old.
    """
    try:
        import pynvml
    except ImportError:
        raise UserError("nvidia-ml-py: not installed, and it lists GPUs; pip install nvidia-ml-py")
    none = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    try:
        pynvml.nvmlInit()
        try:
            version = pynvml.nvmlSystemGetDriverVersion()
            cards = [_card(pynvml, handle) for handle in _visible(pynvml)]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        if error.value in none:
            raise UserError(f"no NVIDIA driver is running; {_GET_DRIVER}")
        if error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            raise UserError("the NVIDIA driver was updated while it ran; reboot")
        raise UserError(f"the NVIDIA driver fails ({error}); nvidia-smi has to work first")
    if _numbers(version) < _numbers(_OLDEST_DRIVER):
        raise UserError(f"the NVIDIA driver, {version}, is too old for CUDA 11; {_GET_DRIVER}")
    return version, cards


def hidden() -> str:
    """' (CUDA_VISIBLE_DEVICES=1)' where that decides which GPUs there are, else ''."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if chosen is None else f" (CUDA_VISIBLE_DEVICES={chosen})"


def _numbers(version):
    return [int(part) for part in version.split(".")]


def _visible(pynvml):
    """Handles of the cards that CUDA is to see, in its order."""
    count = pynvml.nvmlDeviceGetCount()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return handles
    uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
    visible = []
    for entry in map(str.strip, chosen.split(",")):
        is_uuid = entry.startswith("GPU-")  # or the beginning of one
        found = [
            handle
            for index, (handle, uuid) in enumerate(zip(handles, uuids))
            if (is_uuid and uuid.startswith(entry)) or entry == str(index)
        ]
        if len(found) != 1:  # CUDA, too, drops an entry that it does not know, and all after it
            break
        visible += found
    return visible


def _card(pynvml, handle):
    return Card(
        pynvml.nvmlDeviceGetName(handle),
        pynvml.nvmlDeviceGetCudaComputeCapability(handle),
        pynvml.nvmlDeviceGetMemoryInfo(handle).free,
    )
