#include "native/binding/call.h"
#include "native/kernels/gate_residual.h"
#include "native/kernels/layer_norm_modulate.h"
#include "native/kernels/qk_norm_rope.h"
#include "native/kernels/rms_norm.h"
#include "native/kernels/rope_table.h"

namespace goku {

void RegisterNorm(Registry& registry) {
  registry.add("layerNormModulateForward", [](Call& c) {
    layerNormModulateForward(c.tensor(0), c.tensor(1), c.tensor(2), c.tensor(3), c.count(4), c.count(5),
                             c.count(6), c.offsets(7), c.count(8), c.number(9));
  });
  registry.add("layerNormModulateBackward", [](Call& c) {
    layerNormModulateBackward(c.tensor(0), c.tensor(1), c.tensor(2), c.tensor(3), c.tensor(4), c.tensor(5),
                              c.count(6), c.count(7), c.count(8), c.offsets(9), c.count(10));
  });
  registry.add("rmsNormForward", [](Call& c) {
    rmsNormForward(c.tensor(0), c.tensor(1), c.tensor(2), c.tensor(3), c.tensorOrNull(4), c.count(5),
                   c.count(6), c.count(7), c.offsets(8), c.count(9), c.number(10));
  });
  registry.add("rmsNormBackward", [](Call& c) {
    rmsNormBackward(c.tensor(0), c.tensor(1), c.tensorOrNull(2), c.tensor(3), c.tensor(4), c.tensor(5),
                    c.tensor(6), c.tensorOrNull(7), c.count(8), c.count(9), c.count(10), c.offsets(11),
                    c.count(12));
  });
  registry.add("qkNormRopeForward", [](Call& c) {
    qkNormRopeForward(c.tensor(0), c.tensor(1), c.tensor(2), c.tensor(3), c.tensorOrNull(4),
                      c.tensorOrNull(5), c.count(6), c.count(7), c.count(8), c.number(9));
  });
  registry.add("qkNormRopeBackward", [](Call& c) {
    qkNormRopeBackward(c.tensor(0), c.tensor(1), c.tensor(2), c.tensor(3), c.tensor(4), c.tensor(5),
                       c.tensorOrNull(6), c.tensorOrNull(7), c.count(8), c.count(9), c.count(10));
  });
  registry.add("ropeTable", [](Call& c) {
    ropeTable(c.tensor(0), c.tensor(1), c.int32s(2), c.count(3), c.count(4), c.count(5), c.number(6));
  });
  registry.add("gateResidualForward", [](Call& c) {
    gateResidualForward(c.tensor(0), c.tensor(1), c.tensor(2), c.tensor(3), c.count(4), c.count(5),
                        c.offsets(6), c.count(7));
  });
  registry.add("gateResidualBackward", [](Call& c) {
    gateResidualBackward(c.tensor(0), c.tensor(1), c.tensor(2), c.tensor(3), c.tensor(4), c.count(5),
                         c.count(6), c.offsets(7), c.count(8));
  });
}

}  // namespace goku
