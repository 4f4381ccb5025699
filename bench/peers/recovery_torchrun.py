"""A job of 4 ranks as torchrun keeps one alive: DDP over gloo, a checkpoint of every step in shared memory (the least that a
restart can lose), loaded when the workers start. Every rank prints "rank R pid P", rank 0 "step N" for each completed step.

Run: torchrun --standalone --nproc-per-node 4 --max-restarts 1000 recovery_torchrun.py FOLDER
"""
import os
import sys

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel

# About the parameters and the tokens of goku-nano's step in bench/recovery.ts.
WIDTH, BLOCKS, TOKENS = 128, 6, 512


def say(line):
    # One write a line: under torchrun Python is unbuffered, and print() writes the line's end apart, after another rank's line.
    sys.stdout.write(line + "\n")


def main():
    path = os.path.join(sys.argv[1], "checkpoint.pt")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    say(f"rank {rank} pid {os.getpid()}")
    torch.manual_seed(0)
    layer = lambda: nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
    model = DistributedDataParallel(nn.Sequential(*[layer() for _ in range(BLOCKS)]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step = 0
    if os.path.exists(path):
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    while True:
        x = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(step * 4 + rank))
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()
        step += 1
        if rank == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, path + ".new")
            os.replace(path + ".new", path)
            say(f"step {step}")


main()
