// Collectives: arguments are converted and counts checked here, on the JavaScript thread; the groups' own
// threads see plain structs. The promise of commCreate is settled through a threadsafe function.
#include "native/collectives/collectives.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "native/binding/call.h"
#include "native/collectives/pages.h"

namespace goku {
namespace {

using collectives::Collectives;
using collectives::CommId;
using collectives::Endpoint;
using collectives::GroupOptions;
using collectives::Kind;
using collectives::Operation;
using collectives::Reduction;

Collectives& groups(const Call& call) { return call.context().service<Collectives>(); }

CommId commArgument(const Call& call) { return static_cast<CommId>(call.count(0)); }

// --- commCreate
// ---------------------------------------------------------------------------------------------

/// Reads the fields of one object of the arguments; `path` is its place in messages.
class Fields {
 public:
  Fields(napi_env env, napi_value object, std::string path)
      : env_(env), object_(object), path_(std::move(path)) {
    napi_valuetype type = napi_undefined;
    napi_typeof(env_, object_, &type);
    if (type != napi_object) throw NativeError(ErrorCode::kArgument, path_ + ": want an object");
  }

  napi_value value(const char* name) const {
    napi_value value;
    napi_valuetype type = napi_undefined;
    checkNapi(napi_get_named_property(env_, object_, name, &value), name);
    napi_typeof(env_, value, &type);
    if (type == napi_undefined) fail(name, "missing");
    return value;
  }

  std::string string(const char* name) const {
    const napi_value from = value(name);
    size_t length;
    if (napi_get_value_string_utf8(env_, from, nullptr, 0, &length) != napi_ok) fail(name, "want a string");
    std::string text(length, '\0');
    napi_get_value_string_utf8(env_, from, text.data(), length + 1, &length);
    return text;
  }

  /// A string that stands in the handshake between members.
  std::string label(const char* name) const {
    std::string text = string(name);
    if (text.empty() || text.size() > collectives::kNameBytesMax) {
      fail(name, concat(text.size(), " bytes, want 1 to ", collectives::kNameBytesMax));
    }
    return text;
  }

  int64_t integer(const char* name, int64_t min, int64_t max) const {
    double real = 0;
    if (napi_get_value_double(env_, value(name), &real) != napi_ok || std::trunc(real) != real ||
        !(real >= static_cast<double>(min) && real <= static_cast<double>(max))) {
      fail(name, concat("want a whole number from ", min, " to ", max));
    }
    return static_cast<int64_t>(real);
  }

  double milliseconds(const char* name) const {
    constexpr double kMax = 1e12;
    double real = 0;
    if (napi_get_value_double(env_, value(name), &real) != napi_ok || !(real > 0 && real <= kMax)) {
      fail(name, concat("want a number above 0, at most ", kMax));
    }
    return real;
  }

  uint64_t uint64(const char* name) const {
    uint64_t word;
    bool lossless = false;
    if (napi_get_value_bigint_uint64(env_, value(name), &word, &lossless) != napi_ok || !lossless) {
      fail(name, "want a bigint from 0 to 2^64 - 1");
    }
    return word;
  }

  /// The memory of a mapped page; whoever holds it keeps the mapping.
  std::shared_ptr<std::byte> page(Context& context, const char* name) const {
    size_t length;
    void* data = nullptr;
    std::shared_ptr<Page> page;
    if (napi_get_typedarray_info(env_, value(name), nullptr, &length, &data, nullptr, nullptr) == napi_ok) {
      page = context.service<PageTable>().find(static_cast<std::byte*>(data));
    }
    if (page == nullptr || page->bytes() < pages::kPageBytes) {
      fail(name, concat("want a page of ", pages::kPageBytes, " bytes that pageMap returned"));
    }
    return std::shared_ptr<std::byte>(page, page->data());
  }

  [[noreturn]] void fail(const char* name, const std::string& reason) const {
    throw NativeError(ErrorCode::kArgument, concat(path_, ".", name, ": ", reason));
  }

 private:
  napi_env env_;
  napi_value object_;
  std::string path_;
};

std::vector<Endpoint> readMembers(napi_env env, const Fields& options) {
  const napi_value array = options.value("members");
  uint32_t count = 0;
  if (napi_get_array_length(env, array, &count) != napi_ok || count == 0) {
    options.fail("members", "want an array of at least one endpoint");
  }
  std::vector<Endpoint> members;
  for (uint32_t i = 0; i < count; ++i) {
    napi_value element;
    checkNapi(napi_get_element(env, array, i, &element), "members");
    const Fields fields(env, element, concat("commCreate.args[0].members[", i, "]"));
    members.push_back({.rank = static_cast<int>(fields.integer("rank", 0, INT32_MAX)),
                       .nodeId = fields.string("nodeId"),
                       .host = fields.string("host"),
                       .port = static_cast<uint16_t>(fields.integer("port", 0, 65535)),
                       .pid = fields.integer("pid", 0, INT32_MAX)});
  }
  return members;
}

GroupOptions readOptions(Call& call) {
  const Fields fields(call.env(), call.value(0), "commCreate.args[0]");
  GroupOptions options;
  options.name = fields.label("name");
  options.job = fields.label("job");
  options.generation = fields.uint64("generation");
  options.members = readMembers(call.env(), fields);
  options.rank = static_cast<int>(fields.integer("rank", 0, options.size() - 1));
  options.abortPage = fields.page(call.context(), "abortPage");
  options.progressPage = fields.page(call.context(), "progressPage");
  options.tensors = call.context().tensors.memory();
  options.timeoutMs = fields.milliseconds("timeoutMs");
  options.reachMs = fields.milliseconds("reachMs");
  const std::string transport = fields.string("transport");
  if (transport != "auto" && transport != "host" && transport != "tcp")
    fields.fail("transport", "\"" + transport + "\", want auto, host or tcp");
  options.tcpOnly = transport == "tcp";
  options.hostOnly = transport != "auto";
  for (int member = 0; member < options.size(); ++member) {
    const auto neighbours =
        std::count_if(options.members.begin(), options.members.end(), [&](const Endpoint& other) {
          return !options.tcpOnly && other.nodeId == options.members[member].nodeId;
        });
    if (neighbours > collectives::kLocalMembersMax) {
      fields.fail("members",
                  concat(neighbours, " on one node, want at most ", collectives::kLocalMembersMax));
    }
  }
  return options;
}

/// The promise of one commCreate on its way from the group's thread to JavaScript.
struct Settlement {
  napi_deferred deferred = nullptr;
  Collectives* groups = nullptr;
  CommId comm = 0;
  std::optional<NativeError> error;  // written on the group's thread before the threadsafe call
};

/// The environment goes away while the group forms. Runs before the threadsafe function closes, since hooks
/// run last in, first out: the group's thread must not call a function that is gone.
void endForming(void* data) {
  const auto* settlement = static_cast<Settlement*>(data);
  settlement->groups->abandon(settlement->comm);
}

/// On the JavaScript thread. `env` is null while the environment is torn down: nobody waits any more.
void settle(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<Settlement> settlement(static_cast<Settlement*>(data));
  if (env == nullptr) return;
  napi_remove_env_cleanup_hook(env, endForming, settlement.get());
  if (settlement->error) {
    settlement->groups->close(settlement->comm);
    napi_reject_deferred(env, settlement->deferred, makeError(env, *settlement->error));
    return;
  }
  napi_value id;
  napi_create_double(env, static_cast<double>(settlement->comm), &id);
  napi_resolve_deferred(env, settlement->deferred, id);
}

void commCreate(Call& call) {
  GroupOptions options = readOptions(call);
  napi_value promise, label;
  napi_threadsafe_function function;
  checkNapi(napi_create_string_utf8(call.env(), "commCreate", NAPI_AUTO_LENGTH, &label), "commCreate");
  checkNapi(napi_create_threadsafe_function(call.env(), nullptr, nullptr, label, 0, 1, nullptr, nullptr,
                                            nullptr, settle, &function),
            "commCreate");
  auto settlement = std::make_unique<Settlement>();
  settlement->groups = &groups(call);
  try {
    settlement->comm = settlement->groups->create(
        std::move(options), [settlement = settlement.get(), function](std::optional<NativeError> error) {
          settlement->error = std::move(error);
          if (napi_call_threadsafe_function(function, settlement, napi_tsfn_blocking) != napi_ok) return;
          napi_release_threadsafe_function(function, napi_tsfn_release);
        });
  } catch (...) {
    napi_release_threadsafe_function(function, napi_tsfn_abort);
    throw;
  }
  // Settled on this thread, so not before this function has returned.
  checkNapi(napi_create_promise(call.env(), &settlement->deferred, &promise), "commCreate");
  checkNapi(napi_add_env_cleanup_hook(call.env(), endForming, settlement.get()), "commCreate");
  settlement.release();
  call.returns(promise);
}

// --- groups
// -------------------------------------------------------------------------------------------------

void commListen(Call& call) { call.returns(static_cast<double>(groups(call).listen(call.string(0)))); }

void commUnlisten(Call& call) { groups(call).unlisten(); }

void commListenStats(Call& call) {
  const collectives::ListenerCounters counters = groups(call).listenerCounters();
  napi_value object, value;
  checkNapi(napi_create_object(call.env(), &object), "commListenStats");
  const std::pair<const char*, uint64_t> fields[] = {{"accepted", counters.accepted},
                                                     {"parked", counters.parked},
                                                     {"refusedStale", counters.refusedStale},
                                                     {"refusedUnknown", counters.refusedUnknown},
                                                     {"refusedMismatch", counters.refusedMismatch},
                                                     {"refusedMalformed", counters.refusedMalformed}};
  for (const auto& [name, count] : fields) {
    checkNapi(napi_create_double(call.env(), static_cast<double>(count), &value), name);
    checkNapi(napi_set_named_property(call.env(), object, name, value), name);
  }
  call.returns(object);
}

void commCarrier(Call& call) {
  const std::string& carrier = groups(call).carrierOf(commArgument(call));
  napi_value text;
  checkNapi(napi_create_string_utf8(call.env(), carrier.data(), carrier.size(), &text), "commCarrier");
  call.returns(text);
}

void commAbort(Call& call) { groups(call).abort(commArgument(call)); }

void commClose(Call& call) { groups(call).close(commArgument(call)); }

// --- operations
// ---------------------------------------------------------------------------------------------

/// The counts of args[index]: one per member.
std::vector<int64_t> countsArgument(const Call& call, size_t index, const GroupOptions& options) {
  const std::span<const double> raw = call.doubles(index);
  if (raw.size() != options.members.size()) {
    call.reject(index, raw.size(), " counts, want one for each of ", options.members.size(), " members");
  }
  std::vector<int64_t> counts;
  for (const double count : raw) {
    if (!(count >= 0 && count <= 1e15) || std::trunc(count) != count) {
      call.reject(index, count, ", want a whole number of elements");
    }
    counts.push_back(static_cast<int64_t>(count));
  }
  return counts;
}

void wantCount(const Call& call, size_t index, const Tensor& tensor, int64_t count) {
  if (tensor.count != count) call.reject(index, tensor.count, " elements, want ", count, " by the counts");
}

void wantSameType(const Call& call, size_t index, const Tensor& tensor, const Tensor& other) {
  if (tensor.dtype == other.dtype) return;
  call.reject(index, "tensor is ", dtypeName(tensor.dtype), ", want ", dtypeName(other.dtype));
}

/// Peers read one while they write the other.
void wantApart(const Call& call, size_t index, const Tensor& a, const Tensor& b) {
  if (a.data < b.data + b.bytes() && b.data < a.data + a.bytes())
    call.reject(index, "shares memory with another argument");
}

int64_t sumOf(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

void startOperation(Call& call, std::shared_ptr<Operation> operation) {
  call.returns(static_cast<double>(groups(call).start(commArgument(call), std::move(operation))));
}

std::shared_ptr<Operation> newOperation(Kind kind) {
  auto operation = std::make_shared<Operation>();
  operation->kind = kind;
  return operation;
}

void allGatherStart(Call& call) {
  const GroupOptions& options = groups(call).optionsOf(commArgument(call));
  const auto operation = newOperation(Kind::kAllGather);
  operation->out = call.tensor(1);
  operation->input = call.tensor(2);
  operation->dtype = operation->out.dtype;
  operation->outCounts = countsArgument(call, 3, options);
  const std::vector<int64_t>& counts = operation->outCounts;
  wantSameType(call, 2, operation->input, operation->out);
  wantCount(call, 1, operation->out, sumOf(counts));
  wantCount(call, 2, operation->input, counts[options.rank]);
  const int64_t before = std::accumulate(counts.begin(), counts.begin() + options.rank, int64_t{0});
  const size_t place = static_cast<size_t>(before) * dtypeBytes(operation->dtype);
  // In place is welcome: this member's part may lie where it belongs already.
  if (operation->input.data != operation->out.data + place)
    wantApart(call, 2, operation->input, operation->out);
  startOperation(call, operation);
}

void reduceScatterStart(Call& call) {
  const GroupOptions& options = groups(call).optionsOf(commArgument(call));
  const auto operation = newOperation(Kind::kReduceScatter);
  operation->out = call.tensor(1, DType::kF32);
  operation->dtype = DType::kF32;
  operation->outCounts = countsArgument(call, 3, options);
  wantCount(call, 1, operation->out, operation->outCounts[options.rank]);
  const std::span<const std::byte> flags = call.bytes(4);
  if (flags.size() != options.members.size()) {
    call.reject(4, flags.size(), " flags, want one for each of ", options.members.size(), " members");
  }
  for (const std::byte flag : flags) operation->contributes.push_back(flag != std::byte{0});
  if (const Tensor* input = call.tensorOrNull(2); operation->contributes[options.rank]) {
    if (input == nullptr) call.reject(2, "no input, but this member's contributes flag is set");
    operation->input = call.tensor(2, DType::kF32);
    wantCount(call, 2, operation->input, sumOf(operation->outCounts));
    wantApart(call, 2, operation->input, operation->out);
  }
  startOperation(call, operation);
}

void allReduceStart(Call& call) {
  const auto operation = newOperation(Kind::kAllReduce);
  operation->out = call.tensor(1);
  operation->dtype = operation->out.dtype;
  if (operation->dtype != DType::kF32 && operation->dtype != DType::kF64) {
    call.reject(1, "tensor is ", dtypeName(operation->dtype), ", want f32 or f64");
  }
  operation->reduction = static_cast<Reduction>(call.integer(2, 0, 2));
  startOperation(call, operation);
}

void allToAllStart(Call& call) {
  const GroupOptions& options = groups(call).optionsOf(commArgument(call));
  const auto operation = newOperation(Kind::kAllToAll);
  operation->out = call.tensor(1);
  operation->dtype = operation->out.dtype;
  operation->outCounts = countsArgument(call, 2, options);
  operation->input = call.tensor(3);
  operation->inCounts = countsArgument(call, 4, options);
  wantSameType(call, 3, operation->input, operation->out);
  wantCount(call, 1, operation->out, sumOf(operation->outCounts));
  wantCount(call, 3, operation->input, sumOf(operation->inCounts));
  wantApart(call, 3, operation->input, operation->out);
  if (operation->outCounts[options.rank] != operation->inCounts[options.rank]) {
    call.reject(2, operation->outCounts[options.rank], " elements from this member to itself, want ",
                operation->inCounts[options.rank], " as in the counts of the input");
  }
  startOperation(call, operation);
}

void broadcastStart(Call& call) {
  const GroupOptions& options = groups(call).optionsOf(commArgument(call));
  const auto operation = newOperation(Kind::kBroadcast);
  operation->out = call.tensor(1);
  operation->dtype = operation->out.dtype;
  operation->root = static_cast<int>(call.integer(2, 0, options.size() - 1));
  startOperation(call, operation);
}

void barrierStart(Call& call) { startOperation(call, newOperation(Kind::kBarrier)); }

void commWait(Call& call) { groups(call).wait(static_cast<collectives::Ticket>(call.count(0))); }

}  // namespace

void RegisterCollectives(Registry& registry) {
  registry.add("commListen", commListen);
  registry.add("commUnlisten", commUnlisten);
  registry.add("commListenStats", commListenStats);
  registry.add("commCreate", commCreate);
  registry.add("commCarrier", commCarrier);
  registry.add("commAbort", commAbort);
  registry.add("commClose", commClose);
  registry.add("allGatherStart", allGatherStart);
  registry.add("reduceScatterStart", reduceScatterStart);
  registry.add("allReduceStart", allReduceStart);
  registry.add("allToAllStart", allToAllStart);
  registry.add("broadcastStart", broadcastStart);
  registry.add("barrierStart", barrierStart);
  registry.add("commWait", commWait);
}

}  // namespace goku
