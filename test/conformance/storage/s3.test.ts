import { S3Storage } from "../../../checkpoint/storage/s3.js";
import { connectS3 } from "../../../checkpoint/storage/s3_client.js";
import { S3_SERVERS } from "../../support/s3_servers.js";
import { testSettings } from "../../support/s3_settings.js";
import { storageConformance } from "./suite.js";

for (const { name, skip, start } of S3_SERVERS) {
  storageConformance(
    name,
    async () => {
      const server = await start();
      const { endpoint, bucket } = server;
      const settings = testSettings(endpoint);
      const s3 = await connectS3(settings);
      let count = 0;
      return {
        stop: () => server.stop(),
        fresh: async () => {
          const prefix = `team/run-${++count}-a`;
          // The least that S3 takes, so that parts are many.
          const storage = new S3Storage({ bucket, prefix }, { settings, partBytes: 5 << 20 });
          // What begins like the prefix is no part of it.
          await s3.putObject({ Bucket: bucket, Key: `${prefix}0/foreign`, Body: "foreign" });
          return {
            storage,
            leaveUnfinished: async (key) => {
              await s3.createMultipartUpload({ Bucket: bucket, Key: `${prefix}/${key}` });
            },
            unfinishedCount: async () => {
              const { Uploads = [] } = await s3.listMultipartUploads({ Bucket: bucket });
              return Uploads.filter(({ Key }) => Key!.startsWith(`${prefix}/`)).length;
            },
          };
        },
      };
    },
    skip,
  );
}
