import { GokuError } from "../../job/errors.js";

/** Where a controller is reached from elsewhere. */
export interface LeaderAddresses {
  /** host:port. */
  grpc: string;
  /** http://host:port, or https. */
  rest: string;
}

/** NOT_LEADER, with whom to ask instead. */
export class NotLeaderError extends GokuError {
  /** Null: nobody is known to lead, or where it is reached. */
  readonly leader: LeaderAddresses | null;

  constructor(message: string, leader: LeaderAddresses | null) {
    super("NOT_LEADER", message);
    this.leader = leader;
  }
}
