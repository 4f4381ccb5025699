"""Data-parallel training with PyTorch, as for torchrun: what a job needs to survive lost ranks and nodes.

The place of this process comes from torchrun's variables, so init_process_group() needs no arguments of its own. It
starts from its newest checkpoint, whatever the number of ranks, and sends a heartbeat with every step.
"""

import argparse
import json
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--out", default="runs/ddp")
    args = parser.parse_args()

    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu")

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    path = os.path.join(args.out, "checkpoint.pt")
    step = 0
    if os.path.exists(path):
        saved = torch.load(path, map_location=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    restarts = os.environ["TORCHELASTIC_RESTART_COUNT"]
    print(f"rank {rank} of {world} starts from step {step}, restart {restarts}")

    ddp = DistributedDataParallel(model)
    while step < args.steps:
        step += 1
        x = torch.randn(32, 64, generator=torch.Generator().manual_seed(step * world + rank)).to(device)
        loss = (ddp(x) - x.roll(1, dims=1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        heartbeat(step, loss.item())
        if rank == 0 and (step % args.every == 0 or step == args.steps):
            save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
    dist.destroy_process_group()


def heartbeat(step, loss):
    file = os.environ.get("GOKU_HEARTBEAT_FILE")  # not there under torchrun
    if file:
        with open(file, "w") as out:
            json.dump({"step": step, "loss": loss}, out)


def save(path, state):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    torch.save(state, path + ".new")
    os.replace(path + ".new", path)  # never half written


if __name__ == "__main__":
    main()
