// All groups of one JavaScript environment, by number: NativeCollectives of worker/engine/native.ts without
// napi. Called from that environment's thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "native/collectives/group.h"
#include "native/collectives/staging.h"

namespace goku::collectives {

using CommId = uint64_t;
using Ticket = uint64_t;

class Collectives {
 public:
  ~Collectives() { shutdown(); }

  uint16_t listen(const std::string& host);
  void unlisten();
  ListenerCounters listenerCounters() const;

  /// Begins to form a group; `formed` is called on its thread, then the id is usable. On failure close() it.
  CommId create(GroupOptions options, Group::Formed formed);
  void abort(CommId comm);
  void close(CommId comm);
  void abandon(CommId comm);
  const GroupOptions& optionsOf(CommId comm) const;
  const std::string& carrierOf(CommId comm) const;

  Ticket start(CommId comm, std::shared_ptr<Operation> operation);
  /// Blocks until done, forgets the ticket, throws its error.
  void wait(Ticket ticket);

  /// Abandons all groups: the environment goes away.
  void shutdown();

 private:
  Group& find(CommId comm) const;

  std::shared_ptr<Listener> listener_;
  std::string listenHost_;
  std::shared_ptr<Progress> progress_ = std::make_shared<Progress>();
  std::map<CommId, std::unique_ptr<Group>> groups_;
  struct Pending {
    std::shared_ptr<Operation> operation;
    std::unique_ptr<Staged> staged;  // null: none needed
  };
  std::map<Ticket, Pending> tickets_;
  uint64_t lastId_ = 0;
};

}  // namespace goku::collectives
