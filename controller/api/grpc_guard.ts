import { type Metadata, ServerInterceptingCall, type ServerInterceptor } from "@grpc/grpc-js";
import { certificateHolder } from "../../security/certificate_holder.js";
import { bearerToken } from "../../security/tokens.js";
import type { Caller } from "./audit.js";
import { serviceError } from "./error_metadata.js";
import type { Guard } from "./guard.js";
import { permissionOf } from "./permissions.js";

/** Asks the guard before anything that a caller sent is read. */
export class GrpcGuard {
  readonly guard: Guard;
  readonly #callers = new WeakMap<Metadata, Caller>();

  constructor(guard: Guard) {
    this.guard = guard;
  }

  readonly interceptor: ServerInterceptor = (method, call) => {
    let forget = () => {};
    return new ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onCancel: () => forget(), // also when it has ended well
          onReceiveMetadata: (metadata, go) => {
            const presented = {
              token: bearerToken(metadata.get("authorization")[0]?.toString()),
              certificate: certificateHolder(call.getAuthContext().sslPeerCertificate),
              address: call.getConnectionInfo().remoteAddress ?? "unknown",
            };
            try {
              const permission = permissionOf(method.path);
              this.#callers.set(metadata, this.guard.admit(presented, permission));
              const end = (why: Error) => call.sendStatus(serviceError(why));
              if (method.responseStream) forget = this.guard.watch(presented, permission, end);
            } catch (error) {
              call.sendStatus(serviceError(error));
              return;
            }
            metadata.remove("authorization"); // nobody behind this needs it, so nobody can print it
            go(metadata);
          },
        }),
    });
  };

  /** Who makes a call that was let in. */
  callerOf({ metadata }: { metadata: Metadata }): Caller {
    const caller = this.#callers.get(metadata);
    if (caller === undefined) throw new TypeError("a call came past the guard");
    return caller;
  }
}
