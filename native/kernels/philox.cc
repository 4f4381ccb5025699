#include "native/kernels/philox.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <numbers>

#include "native/kernels/checks.h"
#include "native/parallel.h"

namespace goku {
namespace {

constexpr uint32_t kMultiplierA = 0xD2511F53, kMultiplierB = 0xCD9E8D57;
constexpr uint32_t kWeylA = 0x9E3779B9, kWeylB = 0xBB67AE85;

// Four counters side by side. Words lie in the lower halves of 64-bit lanes.
typedef uint64_t Words __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(32)));
constexpr int64_t kGroup = 16;  // normals of four counters

inline Words multiply(Words a, uint64_t b) {
  return reinterpret_cast<Words>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(static_cast<int64_t>(b))));
}

struct Counters {
  Words c[4];
};

inline void philoxRounds(Counters& x, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; round++) {
    const Words a = multiply(x.c[0], kMultiplierA);
    const Words b = multiply(x.c[2], kMultiplierB);
    x.c[0] = (b >> 32) ^ x.c[1] ^ uint64_t { k0 };
    x.c[2] = (a >> 32) ^ x.c[3] ^ uint64_t { k1 };
    x.c[1] = b & 0xffffffffu;
    x.c[3] = a & 0xffffffffu;
    k0 += kWeylA;
    k1 += kWeylB;
  }
}

inline Doubles fma(Doubles a, Doubles b, Doubles c) { return _mm256_fmadd_pd(a, b, c); }
inline Doubles constant(double x) { return Doubles{x, x, x, x}; }

/// A word < 2^32 as a double, exactly: its bits below 2^52, minus 2^52.
inline Doubles fromWord(Words w) {
  return reinterpret_cast<Doubles>(w | uint64_t{0x4330000000000000}) - 4503599627370496.0;
}

/// Natural logarithm for 0 < x < 1, within 1 unit in the last place: x = 2^e m with m in [sqrt(1/2),
/// sqrt(2)), s = (m-1)/(m+1), ln m = 2 atanh(s) by the minimax polynomial of fdlibm's e_log.
inline Doubles logarithm(Doubles x) {
  const Words bits = reinterpret_cast<Words>(x);
  // Adding 1 - sqrt(1/2) in the exponent's units carries into it exactly when the mantissa is above sqrt(2).
  const Words shifted = bits + uint64_t{0x3ff0000000000000 - 0x3fe6a09e667f3bcd};
  const Words biased = shifted >> 52;
  const Words mantissa = (shifted & uint64_t{0x000fffffffffffff}) + uint64_t{0x3fe6a09e667f3bcd};
  const Doubles e = fromWord(biased) - 1023.0;
  const Doubles f = reinterpret_cast<Doubles>(mantissa) - 1.0;
  const Doubles s = f / (2.0 + f);
  const Doubles z = s * s;
  Doubles p = constant(1.479819860511658591e-01);
  p = fma(p, z, constant(1.531383769920937332e-01));
  p = fma(p, z, constant(1.818357216161805012e-01));
  p = fma(p, z, constant(2.222219843214978396e-01));
  p = fma(p, z, constant(2.857142874366239149e-01));
  p = fma(p, z, constant(3.999999999940941908e-01));
  p = fma(p, z, constant(6.666666666666735130e-01));
  const Doubles r = p * z;
  const Doubles half = 0.5 * f * f;
  constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  return e * kLn2High - ((half - (s * (half + r) + e * kLn2Low)) - f);
}

/// Sine and cosine for 0 <= x <= 2 pi: x = n pi/2 + r, polynomials of fdlibm's k_sin and k_cos for |r| <=
/// pi/4.
inline void sineCosine(Doubles x, Doubles& sine, Doubles& cosine) {
  constexpr double kHalfPiHigh = 1.57079632679489655800e+00, kHalfPiLow = 6.12323399573676603587e-17;
  const Doubles n =
      _mm256_round_pd(x * 6.36619772367581382433e-01, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // The first step is exact: x and n pi/2 are close, and fma does not round the product.
  Doubles r = fma(-n, constant(kHalfPiHigh), x);
  r = fma(-n, constant(kHalfPiLow), r);
  const Doubles z = r * r;
  Doubles p = constant(1.58969099521155010221e-10);
  p = fma(p, z, constant(-2.50507602534068634195e-08));
  p = fma(p, z, constant(2.75573137070700676789e-06));
  p = fma(p, z, constant(-1.98412698298579493134e-04));
  p = fma(p, z, constant(8.33333333332248946124e-03));
  p = fma(p, z, constant(-1.66666666666666324348e-01));
  const Doubles s = fma(p * z, r, r);
  Doubles q = constant(-1.13596475577881948265e-11);
  q = fma(q, z, constant(2.08757232129817482790e-09));
  q = fma(q, z, constant(-2.75573143513906633035e-07));
  q = fma(q, z, constant(2.48015872894767294178e-05));
  q = fma(q, z, constant(-1.38888888888741095749e-03));
  q = fma(q, z, constant(4.16666666666666019037e-02));
  const Doubles c = fma(q * z, z, fma(constant(-0.5), z, constant(1.0)));
  // Quadrant n mod 4: odd ones swap, 2 and 3 negate the sine, 1 and 2 the cosine.
  const Words quadrant = reinterpret_cast<Words>(n + 4503599627370496.0) & uint64_t{3};
  const auto swap = (quadrant & uint64_t{1}) != uint64_t{0};
  const Doubles sineRaw = swap ? c : s;
  const Doubles cosineRaw = swap ? s : c;
  const Words sineSign = (quadrant & uint64_t{2}) << 62;
  const Words cosineSign = ((quadrant + uint64_t{1}) & uint64_t{2}) << 62;
  sine = reinterpret_cast<Doubles>(reinterpret_cast<Words>(sineRaw) ^ sineSign);
  cosine = reinterpret_cast<Doubles>(reinterpret_cast<Words>(cosineRaw) ^ cosineSign);
}

/// Two rows of normals, rounded to f32, from two words of each counter.
inline void boxMuller(Words w1, Words w2, __m128& even, __m128& odd) {
  constexpr double kUnit = 1.0 / 4294967296.0;
  const Doubles u1 = (fromWord(w1) + 0.5) * kUnit;
  const Doubles u2 = (fromWord(w2) + 0.5) * kUnit;
  const Doubles radius = _mm256_sqrt_pd(-2.0 * logarithm(u1));
  Doubles sine, cosine;
  sineCosine((2 * std::numbers::pi) * u2, sine, cosine);
  even = _mm256_cvtpd_ps(radius * cosine);
  odd = _mm256_cvtpd_ps(radius * sine);
}

/// The kGroup normals of counters 4 group .. 4 group + 3, in element order.
inline void normalGroup(const NormalStream& stream, uint64_t group, float* out) {
  const uint64_t first = 4 * group;
  const uint64_t which = stream.which, step = stream.step, kind = stream.stream;
  Counters x{{{first, first + 1, first + 2, first + 3},
              {which, which, which, which},
              {step, step, step, step},
              {kind, kind, kind, kind}}};
  philoxRounds(x, static_cast<uint32_t>(stream.seed), static_cast<uint32_t>(stream.seed >> 32));
  __m128 row[4];  // row j holds element j of every counter
  boxMuller(x.c[0], x.c[1], row[0], row[1]);
  boxMuller(x.c[2], x.c[3], row[2], row[3]);
  _MM_TRANSPOSE4_PS(row[0], row[1], row[2], row[3]);
  for (int i = 0; i < 4; i++) _mm_storeu_ps(out + 4 * i, row[i]);
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  Counters x{};
  for (size_t i = 0; i < 4; i++) x.c[i] = Words{counter[i], 0, 0, 0};
  philoxRounds(x, key[0], key[1]);
  std::array<uint32_t, 4> words;
  for (size_t i = 0; i < 4; i++) words[i] = static_cast<uint32_t>(x.c[i][0]);
  return words;
}

void philoxNormal(const Tensor& out, int64_t offset, int64_t count, const NormalStream& stream,
                  int64_t elementStart, double scale) {
  checks::philoxNormal(out, offset, count, elementStart);
  const int64_t groupFirst = elementStart / kGroup;
  const int64_t groupEnd = (elementStart + count + kGroup - 1) / kGroup;
  float* to = out.as<float>() + offset;
  parallelFor(groupEnd - groupFirst, 256, [&](int64_t begin, int64_t end) {
    for (int64_t g = groupFirst + begin; g < groupFirst + end; g++) {
      alignas(32) float normals[kGroup];
      normalGroup(stream, static_cast<uint64_t>(g), normals);
      const int64_t from = std::max(elementStart, g * kGroup);
      const int64_t until = std::min(elementStart + count, (g + 1) * kGroup);
      for (int64_t e = from; e < until; e++)
        to[e - elementStart] = static_cast<float>(scale * static_cast<double>(normals[e - g * kGroup]));
    }
  });
}

}  // namespace goku
