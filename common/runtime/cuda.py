"""What mxnet-cu112 needs of CUDA: its libraries, loaded before MXNet, the driver and the GPUs.

Nothing here imports MXNet, since this decides whether MXNet can be imported at all.
"""

import contextlib
import ctypes
import glob
import importlib.metadata
import importlib.util
import os
import subprocess
from typing import Dict, List, NamedTuple, Optional, Tuple

from common.cli import UserError

from . import elf

# The libraries that libmxnet.so is linked against, in an order in which they can be loaded, and the
# package that holds each: the last release of CUDA 11, and cuDNN 8. The extra 'cuda' of setup.cfg
# lists the same.
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
_DRIVER = "libcuda.so.1"  # no package has it
_OLDEST_DRIVER = "450.80.02"  # the first that runs every CUDA 11 (minor-version compatibility)
_GET_DRIVER = f"install NVIDIA's driver, {_OLDEST_DRIVER} or later"
# The wheel has machine code for 5.0, 6.0, 7.0, 8.0 and 8.6. Code runs on later capabilities of the
# same major version. There is no PTX, from which a driver could compile code for other versions.
_OLDEST_CARD, _NEWEST_CARD = (5, 0), (8, 9)


def is_needed() -> bool:
    """Whether the installed MXNet is built for CUDA 11.

    The library itself is read, since package names may mislead: mxnet and mxnet-cu112 install to
    the same folder, and the one installed last overwrites the other.
    """
    spec = importlib.util.find_spec("mxnet")
    folders = (spec.submodule_search_locations if spec else None) or []
    paths = [os.path.join(folder, "libmxnet.so") for folder in folders]
    return any("libcudart.so.11.0" in elf.needed(path) for path in paths if os.path.exists(path))


def load_libraries() -> None:
    """Load the libraries that an MXNet for CUDA is linked against, so that its import finds them.

    The system's libraries are used if the dynamic linker knows all of them, else the packages'.
    UserError names each library that is missing or has another version, and its package.
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
            elif not faults:  # otherwise the missing library may be the cause
                faults.append(f"{name} cannot be loaded ({installed(requirement)}): {error}")
            else:
                continue
            remedies.append(f"'{requirement.replace(' ', '')}'")
    if faults:
        remedy = f"pip install --force-reinstall --no-deps {' '.join(remedies)}"
        raise UserError(f"CUDA libraries: {'; '.join(faults)}; {remedy}")
    _name_nvrtc()


def on_system() -> bool:
    """Whether LD_LIBRARY_PATH and the dynamic linker's cache have all the libraries."""
    known = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["/sbin/ldconfig", "-p"]
        known = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    folders = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    names = {line.split()[0] for line in known.splitlines() if line.startswith("\t")}
    names.update(*(os.listdir(folder) for folder in folders if os.path.isdir(folder)))
    return names.issuperset(REQUIREMENTS)


def packaged() -> Dict[str, str]:
    """The libraries that installed packages have, and their paths."""
    spec = importlib.util.find_spec("nvidia")
    paths: Dict[str, str] = {}
    for folder in (spec.submodule_search_locations if spec else None) or []:
        for path in glob.glob(os.path.join(glob.escape(folder), "*", "lib", "*.so.*")):
            if os.path.basename(path) in REQUIREMENTS:
                paths.setdefault(os.path.basename(path), path)
    return paths


def installed(requirement: str) -> str:
    """The requirement's package with its installed version: 'nvidia-cudnn-cu11 9.10.2.21'."""
    package = requirement.split()[0]
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package}: not installed"


def _name_nvrtc() -> None:
    """Supply libnvrtc.so: cuDNN and cuBLAS open NVRTC by that name, which its package lacks."""
    try:
        ctypes.CDLL("libnvrtc.so")
    except OSError:
        file = os.memfd_create("libnvrtc.so")
        os.write(file, elf.alias("libnvrtc.so", "libnvrtc.so.11.2"))
        with contextlib.suppress(OSError):  # without /proc, or where code in memory is forbidden
            ctypes.CDLL(f"/proc/self/fd/{file}", ctypes.RTLD_GLOBAL)
        os.close(file)


class Card(NamedTuple):
    """A GPU: its name, its compute capability (major, minor) and its free memory in bytes."""

    name: str
    capability: Tuple[int, int]
    free: int

    def fault(self) -> Optional[str]:
        """Why MXNet cannot use it; None if it can."""
        if _OLDEST_CARD <= self.capability <= _NEWEST_CARD:
            return None
        age = "old" if self.capability < _OLDEST_CARD else "new"
        return (
            f"{self.name} has compute capability {self.capability[0]}.{self.capability[1]}, too"
            f" {age}: this MXNet has code for 5.0 to 8.9 (Maxwell to Ada)"
        )


def driver_and_cards() -> Tuple[str, List[Card]]:
    """The driver's version, and the GPUs in the order in which ``--gpus`` numbers them.

    The order is nvidia-smi's, without the GPUs that CUDA_VISIBLE_DEVICES hides. UserError if
    nvidia-ml-py is not installed, or the driver is missing, failing or too old.
    """
    try:
        import pynvml
    except ImportError:
        raise UserError(
            "nvidia-ml-py: not installed; it is needed to list GPUs: pip install nvidia-ml-py"
        )
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
    """' (CUDA_VISIBLE_DEVICES=1)' if that variable is set, else ''; to end a message with."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if chosen is None else f" (CUDA_VISIBLE_DEVICES={chosen})"


def _numbers(version):
    return [int(part) for part in version.split(".")]


def _visible(pynvml):
    """Handles of the cards that CUDA shows, in its order."""
    count = pynvml.nvmlDeviceGetCount()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return handles
    uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
    visible = []
    for entry in map(str.strip, chosen.split(",")):
        is_uuid = entry.startswith("GPU-")  # whole or abbreviated
        matching = [
            handle
            for index, (handle, uuid) in enumerate(zip(handles, uuids))
            if (is_uuid and uuid.startswith(entry)) or entry == str(index)
        ]
        if len(matching) != 1:  # CUDA ignores an unknown entry and all that follow it
            break
        visible += matching
    return visible


def _card(pynvml, handle):
    return Card(
        pynvml.nvmlDeviceGetName(handle),
        pynvml.nvmlDeviceGetCudaComputeCapability(handle),
        pynvml.nvmlDeviceGetMemoryInfo(handle).free,
    )
