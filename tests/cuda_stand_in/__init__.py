"""Stand-in for CUDA on the CPU, so that tests run the CUDA branches of worker processes and programs without a GPU.

A tensor "on CUDA" is a CPU tensor whose storage is assigned to a GPU of `settings.Gpu`. Two modes of torch follow it:
`DeviceArguments` converts arguments and attributes such as `device="cuda:1"`, `KernelDispatch` assigns the results of
operations. Every operation on such tensors is a kernel launch of its GPU.

- Memory (`memory.py`, `gpu.py`): bytes per GPU and process. The processes of a test share the memory of a GPU. Reserved
  bytes are released only by `empty_cache` and at the end of the process. Memory within a kernel is not counted, and the
  caching allocator is simplified: no fragmentation.
- Time (`gpu.py`): a kernel starts when it is launched and the previous one has ended. It takes the time that its bytes
  need at the GPU's bandwidth, at least 2 µs. Events are times of this queue, so those of a launch-bound program depend
  on the CPU, and those of a device-bound program on the bandwidth. Waiting for the queue takes no real time.
- Not emulated: streams, graphs, torch.compile, NCCL, and kernels that differ from those of the CPU.

`session.cuda_stand_in` starts it from a test.
"""
