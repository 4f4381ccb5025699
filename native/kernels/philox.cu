// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC11) and Box-Muller normals, as philox.h
// defines them. A thread makes the four normals of one counter.
//
// The bits are those of the CPU backend, or a run could not go on elsewhere with the numbers it began with:
// the logarithm, sine and cosine below are its own, operation by operation in f64, with fma where it has one
// and nowhere else (the sources are compiled without contraction).
#include <cmath>

#include "native/cuda/elements.h"
#include "native/kernels/checks.h"
#include "native/kernels/philox.h"

namespace goku {
namespace {

constexpr int kThreads = 256;

struct Words {
  uint32_t w[4];
};

__host__ __device__ inline Words philoxRounds(Words x, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t{x.w[0]} * 0xD2511F53u, b = uint64_t{x.w[2]} * 0xCD9E8D57u;
    x = {{static_cast<uint32_t>(b >> 32) ^ x.w[1] ^ k0, static_cast<uint32_t>(b),
          static_cast<uint32_t>(a >> 32) ^ x.w[3] ^ k1, static_cast<uint32_t>(a)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return x;
}

/// Natural logarithm for 0 < x < 1, within 1 unit in the last place: x = 2^e m with m in [sqrt(1/2),
/// sqrt(2)), s = (m-1)/(m+1), ln m = 2 atanh(s) by the minimax polynomial of fdlibm's e_log.
__device__ inline double logarithm(double x) {
  const uint64_t bits = __builtin_bit_cast(uint64_t, x);
  // Adding 1 - sqrt(1/2) in the exponent's units carries into it exactly when the mantissa is above sqrt(2).
  const uint64_t shifted = bits + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu);
  const uint64_t mantissa = (shifted & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu;
  const double e = static_cast<double>(shifted >> 52) - 1023.0;
  const double f = __builtin_bit_cast(double, mantissa) - 1.0;
  const double s = f / (2.0 + f), z = s * s;
  double p = 1.479819860511658591e-01;
  p = fma(p, z, 1.531383769920937332e-01);
  p = fma(p, z, 1.818357216161805012e-01);
  p = fma(p, z, 2.222219843214978396e-01);
  p = fma(p, z, 2.857142874366239149e-01);
  p = fma(p, z, 3.999999999940941908e-01);
  p = fma(p, z, 6.666666666666735130e-01);
  const double r = p * z, half = 0.5 * f * f;
  constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  return e * kLn2High - ((half - (s * (half + r) + e * kLn2Low)) - f);
}

/// Sine and cosine for 0 <= x <= 2 pi: x = n pi/2 + r, polynomials of fdlibm's k_sin and k_cos for |r| <=
/// pi/4.
__device__ inline void sineCosine(double x, double& sine, double& cosine) {
  constexpr double kHalfPiHigh = 1.57079632679489655800e+00, kHalfPiLow = 6.12323399573676603587e-17;
  const double n = rint(x * 6.36619772367581382433e-01);
  // The first step is exact: x and n pi/2 are close, and fma does not round the product.
  double r = fma(-n, kHalfPiHigh, x);
  r = fma(-n, kHalfPiLow, r);
  const double z = r * r;
  double p = 1.58969099521155010221e-10;
  p = fma(p, z, -2.50507602534068634195e-08);
  p = fma(p, z, 2.75573137070700676789e-06);
  p = fma(p, z, -1.98412698298579493134e-04);
  p = fma(p, z, 8.33333333332248946124e-03);
  p = fma(p, z, -1.66666666666666324348e-01);
  const double s = fma(p * z, r, r);
  double q = -1.13596475577881948265e-11;
  q = fma(q, z, 2.08757232129817482790e-09);
  q = fma(q, z, -2.75573143513906633035e-07);
  q = fma(q, z, 2.48015872894767294178e-05);
  q = fma(q, z, -1.38888888888741095749e-03);
  q = fma(q, z, 4.16666666666666019037e-02);
  const double c = fma(q * z, z, fma(-0.5, z, 1.0));
  // Quadrant n mod 4: odd ones swap, 2 and 3 negate the sine, 1 and 2 the cosine.
  const int quadrant = static_cast<int>(n) & 3;
  sine = quadrant % 2 == 0 ? s : c;
  cosine = quadrant % 2 == 0 ? c : s;
  if (quadrant & 2) sine = -sine;
  if ((quadrant + 1) & 2) cosine = -cosine;
}

__device__ inline void boxMuller(uint32_t w1, uint32_t w2, float& even, float& odd) {
  constexpr double kUnit = 1.0 / 4294967296.0;
  constexpr double kTwoPi = 2 * 3.141592653589793238462643383279502884;
  const double u1 = (static_cast<double>(w1) + 0.5) * kUnit;
  const double u2 = (static_cast<double>(w2) + 0.5) * kUnit;
  const double radius = sqrt(-2.0 * logarithm(u1));
  double sine, cosine;
  sineCosine(kTwoPi * u2, sine, cosine);
  even = static_cast<float>(radius * cosine);
  odd = static_cast<float>(radius * sine);
}

/// out[e - elementStart] = scale * normal(e) for the elements of [elementStart, elementEnd) that counters
/// firstCounter .. hold.
__global__ void normalKernel(float* out, NormalStream stream, int64_t firstCounter, int64_t elementStart,
                             int64_t elementEnd, double scale) {
  const int64_t counter = firstCounter + int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (4 * counter >= elementEnd) return;
  const Words words =
      philoxRounds({{static_cast<uint32_t>(counter), stream.which, stream.step, stream.stream}},
                   static_cast<uint32_t>(stream.seed), static_cast<uint32_t>(stream.seed >> 32));
  float normals[4];
  boxMuller(words.w[0], words.w[1], normals[0], normals[1]);
  boxMuller(words.w[2], words.w[3], normals[2], normals[3]);
  for (int j = 0; j < 4; j++) {
    const int64_t e = 4 * counter + j;
    if (e >= elementStart && e < elementEnd)
      out[e - elementStart] = static_cast<float>(scale * static_cast<double>(normals[j]));
  }
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const Words words = philoxRounds({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return {words.w[0], words.w[1], words.w[2], words.w[3]};
}

void philoxNormal(const Tensor& out, int64_t offset, int64_t count, const NormalStream& stream,
                  int64_t elementStart, double scale) {
  checks::philoxNormal(out, offset, count, elementStart);
  const int64_t first = elementStart / 4, end = ceilDivide(elementStart + count, 4);
  if (count == 0) return;
  launch(normalKernel, "philoxNormal", {ceilDivide(end - first, kThreads), kThreads},
         out.as<float>() + offset, stream, first, elementStart, elementStart + count, scale);
}

}  // namespace goku
