#!/bin/bash
# sbatch configs/cluster/slurm.sh run.yaml /shared/runs/NAME
#
# One job: the last node samples with vLLM, one server on each GPU, and the others train. docs/scaling.md explains it.
# run.yaml names VLLMSampler and no urls (for servers of other jobs: urls of the form file:PATH, docs/vllm.md). The folder
# has to be on storage that all nodes share; a job with a folder that has a checkpoint resumes. Further words are options
# of lgrpo fit.
#SBATCH --job-name=lgrpo
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=SIGUSR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
config=$1 run=$2
serve_nodes=${SERVE_NODES:-1} gpus=$SLURM_NTASKS_PER_NODE port=${PORT:-8000}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
train_nodes=$((${#nodes[@]} - serve_nodes))
train=("${nodes[@]:0:train_nodes}")
serve=("${nodes[@]:train_nodes}")
urls=
for node in "${serve[@]}"; do
  for ((gpu = 0; gpu < gpus; gpu++)); do urls+=",\"http://$node:$((port + gpu))\""; done
done
list() { local IFS=,; echo "$*"; }

VLLM_API_KEY=$(python -c "import secrets; print(secrets.token_hex(24))")
export VLLM_API_KEY
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
export MASTER_ADDR=${train[0]} # else Lightning takes the first node of the job, which may be another one

# SIGUSR1 goes to all steps: the run saves its state and is queued again, the servers ignore it.
srun --nodes="$serve_nodes" --nodelist="$(list "${serve[@]}")" --ntasks-per-node="$gpus" bash -c '
  trap "" USR1
  export CUDA_VISIBLE_DEVICES=$SLURM_LOCALID
  exec lgrpo serve --config "$1" --host 0.0.0.0 --port $(($2 + SLURM_LOCALID))' serve "$config" "$port" &
servers=$!
trap 'kill $servers || true' EXIT

srun --nodes="$train_nodes" --nodelist="$(list "${train[@]}")" --ntasks-per-node="$gpus" \
  env SLURM_NNODES="$train_nodes" lgrpo fit --config "$config" --ckpt_path=last \
  --trainer.default_root_dir="$run" --trainer.num_nodes="$train_nodes" --trainer.devices="$gpus" \
  --model.sampler.init_args.server.urls="[${urls:1}]" \
  --model.sampler.init_args.server.weights_dir="$run/weights" "${@:3}"
