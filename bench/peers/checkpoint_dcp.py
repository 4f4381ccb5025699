"""One rank of torch.distributed.checkpoint (DCP), driven line by line by bench/checkpoint.ts.

usage: checkpoint_dcp.py RANK WORLD RENDEZVOUS_FILE PARAMETERS_JSON

The state is what ours is: four f32 tensors for every parameter, each a DTensor sharded over the world. Prints "ready";
then each line `save DIR` or `load DIR` on stdin does that behind a barrier and is answered with its seconds. The end of
input ends the process.
"""
import json
import os
import sys
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, zeros


def main():
    rank, world = int(sys.argv[1]), int(sys.argv[2])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    with open(sys.argv[4]) as file:
        parameters = json.load(file)
    state = {}
    for kind in ("model", "ema", "adam_m", "adam_v"):
        for name, shape in parameters:
            state[f"{kind}.{name}"] = zeros(*shape, device_mesh=mesh, placements=[Shard(0)])
            state[f"{kind}.{name}"].to_local().fill_(0.5)  # memory that was used, as ours
    print("ready", flush=True)
    for line in sys.stdin:
        action, folder = line.split()
        dist.barrier()
        start = time.perf_counter()
        if action == "save":
            dcp.save(state, checkpoint_id=folder)
        else:
            dcp.load(state, checkpoint_id=folder)
        print(f"{time.perf_counter() - start:.9f}", flush=True)
    os._exit(0)  # the others may have gone already: no farewell over the network


main()
