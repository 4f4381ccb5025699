import { isIP } from "node:net";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import { type ChannelOptions, credentials, InterceptingCall, type Interceptor } from "@grpc/grpc-js";
import { GokuError } from "../job/errors.js";
import { hostOf, isLoopback } from "./loopback.js";
import { read, readCa, readTlsFiles } from "./tls_files.js";
import { readToken } from "./tokens.js";

/** How a client shows who it is, and knows whom it talks to: paths, read anew for each connection. */
export interface ClientAccess {
  /** Issuers of the controllers' certificates; null: no TLS. */
  ca: string | null;
  cert: string | null;
  key: string | null;
  tokenFile: string | null;
}

/** TLS may not ask a server for an address by name (RFC 6066); its certificate is checked against the address all the same. */
const NO_NAME = "goku-controller";

export const NO_ACCESS: ClientAccess = { ca: null, cert: null, key: null, tokenFile: null };

/**
 * Credentials and options of a gRPC channel to a controller. Throws ARGUMENT_INVALID: a file is wrong, half of a pair is
 * named, or a token would cross a network that anybody may listen to.
 */
export function controllerChannel(access: ClientAccess, address: string) {
  requireWhole(access);
  const { ca, cert, key, tokenFile } = access;
  if (tokenFile !== null && ca === null && !isLoopback(hostOf(address)))
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot send a token to ${address}: without TLS anyone on the way may read it; name the controller's CA with --ca or GOKU_CA`,
    );
  const token = tokenFile === null ? null : readToken(read("token file", tokenFile).toString(), tokenFile);
  const host = hostOf(address);
  const options: ChannelOptions & { interceptors?: Interceptor[] } = {
    ...(token === null ? {} : { interceptors: [bearerInterceptor(token)] }),
    ...(isIP(host) === 0 ? {} : { "grpc.ssl_target_name_override": NO_NAME }),
  };
  return { credentials: channelCredentials({ ca, cert, key }, host), options };
}

/** Adds an authorization header to every call. */
export function bearerInterceptor(secret: string): Interceptor {
  return (options, nextCall) =>
    new InterceptingCall(nextCall(options), {
      start: (metadata, listener, next) => {
        metadata.set("authorization", `Bearer ${secret}`);
        next(metadata, listener);
      },
    });
}

function requireWhole({ ca, cert, key }: ClientAccess): void {
  if ((cert === null) === (key === null) && (cert === null || ca !== null)) return;
  throw new GokuError(
    "ARGUMENT_INVALID",
    "Cannot use a client certificate: --cert, --key and --ca belong together, one of them is missing",
  );
}

function channelCredentials({ ca, cert, key }: Omit<ClientAccess, "tokenFile">, host: string) {
  if (ca === null) return credentials.createInsecure();
  const verify = {
    checkServerIdentity: (_name: string, peer: PeerCertificate) => checkServerIdentity(host, peer),
  };
  if (cert === null || key === null) return credentials.createSsl(readCa(ca), null, null, verify);
  const material = readTlsFiles({ ca, cert, key });
  return credentials.createSsl(material.ca, material.key, material.cert, verify);
}
