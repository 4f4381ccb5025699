import assert from "node:assert/strict";
import { test } from "node:test";
import { LogReader, TEXT_LENGTH_MAX } from "../../../../worker/agent/signals/log_reader.js";

/** Lines as the programs write them, and the kind that each is. */
const LINES: [line: string, kind: string | null][] = [
  ["RuntimeError: CUDA error: uncorrectable ECC error encountered", "log.cuda_ecc"],
  ["[rank3]: RuntimeError: CUDA error: an illegal memory access was encountered", "log.cuda_illegal_address"],
  [
    "/pytorch/aten/src/ATen/native/cuda/Indexing.cu:1236: indexSelectSmallIndex: RuntimeError: CUDA error: device-side assert triggered",
    "log.cuda_assert",
  ],
  ["RuntimeError: CUDA error: the launch timed out and was terminated", "log.cuda_launch_timeout"],
  [
    "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.  Reboot the system",
    "log.cuda_lost",
  ],
  ["RuntimeError: No CUDA GPUs are available", null],
  [
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB",
    "log.gpu_out_of_memory",
  ],
  [
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "log.gpu_out_of_memory",
  ],
  [
    "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(`",
    "log.cuda_library",
  ],
  [
    "node-7:1234:1301 [4] ibvwrap.cc:153 NCCL WARN Call to ibv_modify_qp failed with error Connection timed out",
    "log.ib_call",
  ],
  [
    "node-7:1234:1301 [4] transport/net_ib.cc:1295 NCCL WARN NET/IB : Got completion from peer 10.0.3.7<51234> with error 12, opcode 0, len 0, vendor err 129",
    "log.ib_completion",
  ],
  [
    "node-7:99:120 [0] transport/net_ib.cc:93 NCCL WARN NET/IB : mlx5_4:1 Got async event : port error",
    "log.ib_event",
  ],
  [
    "node-7:1234:1301 [4] misc/socket.cc:49 NCCL WARN Net : Connection closed by remote peer node-8<43214>",
    "log.peer_closed",
  ],
  [
    "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4242",
    "log.peer_closed",
  ],
  [
    "[rank0]:[E ProcessGroupNCCL.cpp:616] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=17, OpType=ALLREDUCE, NumelIn=1, Timeout(ms)=600000) ran for 600031 milliseconds before timing out.",
    "log.watchdog",
  ],
  [
    "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/ProcessGroupNCCL.cpp:1333, unhandled system error (run with NCCL_DEBUG=INFO for details)",
    "log.nccl_system",
  ],
  ["node-7:1:2 [0] NCCL WARN Cuda failure 'invalid argument'", "log.nccl"],
  [
    "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory. Please try to raise your shared memory limit.",
    "log.shared_memory",
  ],
  ["Bus error (core dumped)", "log.bus_error"],
  ["OSError: [Errno 28] No space left on device: '/scratch/ckpt'", "log.no_space"],
  ["OSError: [Errno 116] Stale file handle: '/mnt/data/7.tar'", "log.storage"],
  ["Killed", "log.killed"],
  ["Killed 3 stale workers", null],
  [
    "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 137438953472 bytes. Error code 12 (Cannot allocate memory)",
    "log.out_of_memory",
  ],
  ["PIL.UnidentifiedImageError: cannot identify image file <_io.BytesIO object at 0x7f>", "log.data"],
  ["Segmentation fault (core dumped)", "log.crash"],
  ["ModuleNotFoundError: No module named 'flash_attn'", "log.missing"],
  ["step 41: loss 0.731, 12,288 tokens/s", null],
  ["", null],
];

test("LogReader: knows the words of CUDA, NCCL, PyTorch, Python and the C library", () => {
  const found = LINES.map(([line]) => [line, new LogReader().read(line)?.kind ?? null]);
  assert.deepEqual(found, LINES);
});

test("LogReader: of a Python traceback the last line counts, whatever words its code holds", () => {
  const reader = new LogReader();
  const lines = [
    "Traceback (most recent call last):",
    '  File "/app/train.py", line 81, in <module>',
    '    raise OSError("No space left on device")',
    "ValueError: shapes (4, 8) and (9,) not aligned",
    "ValueError: said once more, by itself",
  ];
  const found = lines.map((line) => reader.read(line));
  assert.deepEqual(found, [
    null,
    null,
    null,
    { kind: "log.python_error", device: "", text: "ValueError: shapes (4, 8) and (9,) not aligned" },
    null,
  ]);
});

test("LogReader: a traceback that a rank's prefix stands before, and one that another follows", () => {
  const reader = new LogReader();
  const lines = [
    "[rank1]: Traceback (most recent call last):",
    '[rank1]:   File "t.py", line 1, in <module>',
    "[rank1]: KeyError: 'x'",
    "[rank1]: ",
    "[rank1]: During handling of the above exception, another exception occurred:",
    "[rank1]: ",
    "[rank1]: Traceback (most recent call last):",
    '[rank1]:   File "t.py", line 3, in <module>',
    "[rank1]: torch.cuda.OutOfMemoryError: CUDA out of memory.",
  ];
  assert.deepEqual(
    lines.flatMap((line) => reader.read(line) ?? []).map(({ kind }) => kind),
    ["log.python_error", "log.gpu_out_of_memory"],
  );
});

test("LogReader: an end that was asked for is no error", () => {
  const reader = new LogReader();
  for (const line of ["Traceback (most recent call last):", '  File "t.py"', "KeyboardInterrupt"])
    assert.equal(reader.read(line), null);
});

test("LogReader: of a long line the beginning is looked at, and less is told", () => {
  const late = `${"x".repeat(3_900)} uncorrectable ECC error encountered`;
  assert.equal(new LogReader().read(late), null);
  const long = `uncorrectable ECC error encountered ${"y".repeat(3_900)}`;
  assert.equal(new LogReader().read(long)?.text.length, TEXT_LENGTH_MAX);
});
