// Matrix products by cuBLASLt. One per environment; the library is loaded by the first product.
#pragma once

#include <memory>

#include "native/cuda/matrix_product.h"

namespace goku {

class CublasLt {
 public:
  CublasLt();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// On the compute stream. m, n and k are at least 1. The algorithm of a shape is the first that gives the
  /// same bits in every run, and is kept. Throws NATIVE_DEVICE.
  void run(const MatrixProduct& product);

 private:
  class Library;
  std::unique_ptr<Library> library_;
};

}  // namespace goku
