"""One rank of torch.distributed gloo, driven line by line by bench/collectives.ts.

usage: collectives_gloo.py RANK WORLD PORT BYTES

Reads `OPERATION ROUNDS` lines from stdin, runs the operation ROUNDS times between barriers and answers with one
line: the seconds of each round, separated by blanks. An empty line or the end of input ends the process.
"""

import os
import sys
import time

try:
    import torch
    import torch.distributed as dist
except ImportError as error:
    print(f"skipped: {error}", flush=True)
    sys.exit(0)


def main() -> None:
    rank, world, port, size = (int(word) for word in sys.argv[1:5])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    count = size // 4 // world * world
    whole = torch.ones(count)
    other = torch.zeros(count)
    part = torch.ones(count // world)
    operations = {
        "allGather": lambda: dist.all_gather_into_tensor(other, part),
        "reduceScatter": lambda: dist.reduce_scatter_tensor(part, whole),
        # Zeros stay zeros: a sum repeated in place would otherwise run into infinity, which adds at another speed.
        "allReduce": lambda: dist.all_reduce(other.zero_() if rounds_done == 0 else other),
        "allToAll": lambda: dist.all_to_all_single(other, whole),
        "broadcast": lambda: dist.broadcast(whole, src=0),
    }
    print(f"ready {torch.__version__}", flush=True)
    for line in sys.stdin:
        words = line.split()
        if not words:
            break
        operation, rounds = operations[words[0]], int(words[1])
        seconds = []
        for rounds_done in range(rounds):
            dist.barrier()
            start = time.perf_counter()
            operation()
            seconds.append(time.perf_counter() - start)
        print(" ".join(f"{value:.9f}" for value in seconds), flush=True)
    dist.destroy_process_group()


main()
