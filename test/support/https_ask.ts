import { type RequestOptions, request } from "node:https";
import { text } from "node:stream/consumers";

export interface HttpsAnswer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: string;
}

/** One request over TLS; fetch knows no CA of one's own. */
export async function httpsAsk(url: string, options: RequestOptions): Promise<HttpsAnswer> {
  const response = await new Promise<import("node:http").IncomingMessage>((resolve, reject) => {
    request(url, { agent: false, ...options }, resolve)
      .on("error", reject)
      .end();
  });
  return { status: response.statusCode!, headers: response.headers, body: await text(response) };
}
