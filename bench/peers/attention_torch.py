"""Packed attention in PyTorch, the faster of two ways a practitioner has: scaled_dot_product_attention sample by sample,
or in batches of samples of equal length.

Reads one JSON line of settings from stdin, prints {"ready": true, "version": v}; then each line "forward", "forward
loop", "both" or "both loop" (forward and backward) runs it once and prints {"seconds": s}.
"""
import json
import sys
import time
from itertools import groupby

import torch
import torch.nn.functional as F


def by_sample(q, k, v, q_lengths, k_lengths):
    out = []
    for qi, ki, vi in zip(q.split(q_lengths), k.split(k_lengths), v.split(k_lengths)):
        qi, ki, vi = (x.transpose(0, 1)[None] for x in (qi, ki, vi))
        out.append(F.scaled_dot_product_attention(qi, ki, vi)[0].transpose(0, 1))
    return torch.cat(out)


def batched(q, k, v, q_lengths, k_lengths):
    out, q_start, k_start = [], 0, 0
    for (q_length, k_length), group in groupby(zip(q_lengths, k_lengths)):
        samples = len(list(group))
        part = lambda x, start, n: x[start : start + samples * n].unflatten(0, (samples, n)).transpose(1, 2)
        qs, ks, vs = part(q, q_start, q_length), part(k, k_start, k_length), part(v, k_start, k_length)
        out.append(F.scaled_dot_product_attention(qs, ks, vs).transpose(1, 2).flatten(0, 1))
        q_start, k_start = q_start + samples * q_length, k_start + samples * k_length
    return torch.cat(out)


def main():
    settings = json.loads(sys.stdin.readline())
    torch.set_num_threads(settings["threads"])
    dtype = torch.bfloat16 if settings["dtype"] == "bf16" else torch.float32
    q_lengths, k_lengths = settings["q_lengths"], settings["k_lengths"]
    sizes = [(sum(lengths), settings["heads"], settings["width"]) for lengths in (q_lengths, k_lengths, k_lengths)]
    q, k, v = (torch.randn(size).to(dtype).requires_grad_() for size in sizes)
    dout = torch.randn(sizes[0]).to(dtype)
    print(json.dumps({"ready": True, "version": torch.__version__}), flush=True)
    for line in sys.stdin:
        way = by_sample if "loop" in line else batched
        start = time.perf_counter()
        if line.startswith("both"):
            torch.autograd.grad(way(q, k, v, q_lengths, k_lengths), (q, k, v), dout)
        else:
            with torch.no_grad():
                way(q, k, v, q_lengths, k_lengths)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
