// Sums in f64 whose order depends on nothing but the position in the run.
#pragma once

#include <cstdint>
#include <cstring>

#include "native/simd.h"

namespace goku {

/// Adds squares of floats in f64, in kLanes separate sums.
class SquareSum {
 public:
  void add(Vec v) {
    HalfVec halves[2];
    std::memcpy(halves, &v, sizeof v);
    const HalfWide low = __builtin_convertvector(halves[0], HalfWide);
    const HalfWide high = __builtin_convertvector(halves[1], HalfWide);
    low_ += low * low;
    high_ += high * high;
  }
  double total() const {
    const HalfWide both = low_ + high_;
    double sum = 0;
    for (int64_t i = 0; i < kLanes / 2; i++) sum += both[i];
    return sum;
  }

 private:
  typedef float HalfVec __attribute__((vector_size(2 * kLanes)));
  typedef double HalfWide __attribute__((vector_size(4 * kLanes)));
  HalfWide low_ = {};
  HalfWide high_ = {};
};

}  // namespace goku
