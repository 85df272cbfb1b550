"""A made-up NVIDIA driver with made-up cards, in place of the module ``pynvml``."""

from types import SimpleNamespace

GIB = 2**30
CARDS = {
    "Tesla K80": (3, 7),
    "Tesla M60": (5, 2),
    "Tesla P100-PCIE-16GB": (6, 0),
    "Tesla V100-SXM2-16GB": (7, 0),
    "Tesla T4": (7, 5),
    "NVIDIA A100-SXM4-40GB": (8, 0),
    "NVIDIA GeForce RTX 3090": (8, 6),
    "NVIDIA L4": (8, 9),
    "NVIDIA GeForce RTX 4090": (8, 9),
    "NVIDIA H100 80GB HBM3": (9, 0),
    "NVIDIA B200": (10, 0),
}
TOO_OLD, TOO_NEW = ["Tesla K80"], ["NVIDIA H100 80GB HBM3", "NVIDIA B200"]


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(f"NVML error {value}")
        self.value = value


class Driver:
    """Stands in for the module ``pynvml``; a card's handle is its number."""

    NVMLError = NVMLError
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18

    def __init__(self, cards=(), version="535.104.05", free=15 * GIB, error=None):
        self._cards, self._version, self._free, self._error = cards, version, free, error
        self.open = 0

    def nvmlInit(self):
        if self._error:
            raise NVMLError(self._error)
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):
        return self._version

    def nvmlDeviceGetCount(self):
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return self._cards[handle]

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle:02d}5a0b1c"

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return CARDS[self._cards[handle]]

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(free=self._free)
