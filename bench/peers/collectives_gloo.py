"""One rank of torch.distributed gloo, driven line by line by bench/collectives.ts.

usage: collectives_gloo.py RANK WORLD RENDEZVOUS_FILE BYTES

Prints "ready VERSION"; then each line `OPERATION` on stdin runs that operation once behind a barrier and is answered
with its seconds. The end of input ends the process.
"""
import os
import sys
import time

import torch
import torch.distributed as dist


def main():
    rank, world, size = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
    count = size // 4 // world * world
    whole, other, part = torch.zeros(count), torch.zeros(count), torch.zeros(count // world)
    # Zeros everywhere: sums repeated in place would run into infinity.
    operations = {
        "allGather": lambda: dist.all_gather_into_tensor(other, part),
        "reduceScatter": lambda: dist.reduce_scatter_tensor(part, whole),
        "allReduce": lambda: dist.all_reduce(whole),
        "allToAll": lambda: dist.all_to_all_single(other, whole),
        "broadcast": lambda: dist.broadcast(whole, src=0),
    }
    print("ready", torch.__version__, flush=True)
    for line in sys.stdin:
        operation = operations[line.strip()]
        dist.barrier()
        start = time.perf_counter()
        operation()
        print(f"{time.perf_counter() - start:.9f}", flush=True)
    os._exit(0)  # the others may have gone already: no farewell over the network


main()
