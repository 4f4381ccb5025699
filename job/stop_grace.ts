/** How long a stop may take to make the state durable, where nobody says, and at most; 0: the newest state in memory, at once. */
export const STOP_GRACE = { seconds: 30, secondsMax: 86_400 } as const;
