/* A libcuda.so.1 without a GPU: all that libmxnet.so imports of the driver, each of which fails. */

#define CUDA_ERROR_NO_DEVICE 100
#define STUB(name) \
  int name(void) { return CUDA_ERROR_NO_DEVICE; }

STUB(cuInit)
STUB(cuDeviceGet)
STUB(cuDevicePrimaryCtxRetain)
STUB(cuGetErrorString)
STUB(cuGraphKernelNodeGetParams)
STUB(cuGraphNodeGetType)
STUB(cuLaunchKernel)
STUB(cuModuleGetFunction)
STUB(cuModuleLoadData)
STUB(cuModuleLoadDataEx)
STUB(cuModuleUnload)
