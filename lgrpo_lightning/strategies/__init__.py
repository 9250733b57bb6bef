"""How a run is divided over devices: FSDP2, tensor parallelism, precision, sums over ranks."""
