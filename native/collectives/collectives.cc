#include "native/collectives/collectives.h"

namespace goku::collectives {

uint16_t Collectives::listen(const std::string& host) {
  if (listener_ == nullptr) {
    try {
      listener_ = std::make_shared<Listener>(host);
    } catch (const FaultError& error) {
      throw NativeError(error.fault().code, concat("Cannot listen for members: ", error.fault().reason));
    }
    listenHost_ = host;
  }
  GOKU_CHECK(host == listenHost_, "Cannot listen on ", host, ": this process listens on ", listenHost_,
             ", call commUnlisten first");
  return listener_->port();
}

void Collectives::unlisten() { listener_ = nullptr; }

ListenerCounters Collectives::listenerCounters() const {
  return listener_ == nullptr ? ListenerCounters{} : listener_->counters();
}

CommId Collectives::create(GroupOptions options, Group::Formed formed) {
  GOKU_CHECK(options.size() == 1 || listener_ != nullptr, "Cannot create group ", options.name,
             ": this process does not listen, call commListen first");
  const CommId comm = ++lastId_;
  groups_.emplace(comm, std::make_unique<Group>(std::move(options), listener_, progress_, std::move(formed)));
  return comm;
}

void Collectives::abort(CommId comm) {
  const auto found = groups_.find(comm);
  if (found != groups_.end()) found->second->abort();
}

void Collectives::close(CommId comm) { groups_.erase(comm); }

void Collectives::abandon(CommId comm) {
  const auto found = groups_.find(comm);
  if (found == groups_.end()) return;
  found->second->abandon();
  groups_.erase(found);
}

const GroupOptions& Collectives::optionsOf(CommId comm) const { return find(comm).options(); }

const std::string& Collectives::carrierOf(CommId comm) const { return find(comm).carrier(); }

Ticket Collectives::start(CommId comm, std::shared_ptr<Operation> operation) {
  Group& group = find(comm);
  std::unique_ptr<Staged> staged;
  if (const DeviceLines* lines = group.deviceLines(); lines != nullptr && lines->carries(*operation)) {
    operation->before = lines->mark();
  } else {
    staged = stage(*operation);
  }
  const Ticket ticket = ++lastId_;
  tickets_.emplace(ticket, Pending{operation, std::move(staged)});
  group.start(std::move(operation));
  return ticket;
}

void Collectives::wait(Ticket ticket) {
  const auto found = tickets_.find(ticket);
  GOKU_CHECK(found != tickets_.end(), "Cannot wait for ticket ", ticket,
             ": it is unknown or was waited for, wait once");
  const Pending pending = std::move(found->second);
  const std::shared_ptr<Operation>& operation = pending.operation;
  tickets_.erase(found);
  std::unique_lock lock(operation->mutex);
  operation->finished.wait(lock, [&] { return operation->done; });
  if (operation->error) throw NativeError(*operation->error);
  if (pending.staged != nullptr) pending.staged->place();
}

void Collectives::shutdown() {
  for (const auto& [comm, group] : groups_) group->abandon();
  groups_.clear();
  tickets_.clear();
  listener_ = nullptr;
}

Group& Collectives::find(CommId comm) const {
  const auto found = groups_.find(comm);
  GOKU_CHECK(found != groups_.end(), "Cannot use group ", comm, ": it is closed or unknown, create it first");
  return *found->second;
}

}  // namespace goku::collectives
