// Operators for the CPU, through the extension interface that MXNet 1.9.1 ships
// (mxnet/lib_api.h). They replace MXNet's own only while a module is bound: see
// common/graph/native_operators.py and common/runtime/native.py.

#include "augmenter.h"
#include "convolution.h"
#include "first_convolution.h"
#include "fully_connected.h"
#include "int8_convolution.h"
#include "int8_fully_connected.h"
#include "lrn.h"
#include "pixels.h"
#include "sgd.h"
#include "stderr.h"

MXReturnValue initialize(int version) {
  if (version >= 10900 && version < 20000) return MX_SUCCESS;
  MX_ERROR_MSG << "built for MXNet 1.9, not " << version;
  return MX_FAIL;
}
