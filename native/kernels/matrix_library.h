// Whose matrix products an addon uses; one per environment.
#pragma once

#if defined(GOKU_CUDA)
#include "native/cuda/cublaslt.h"
namespace goku {
using MatrixLibrary = CublasLt;
}
#else
#include "native/kernels/onednn_matmul.h"
namespace goku {
using MatrixLibrary = OnednnMatmul;
}
#endif
