#!/usr/bin/env bash
# Start the processes of a training script: alone, by torchrun, or by one torchrun a machine under srun.
#   torchrun.sh NODES PROCESSES THREADS SCRIPT ARGUMENTS...
# PROCESSES and THREADS (CPUs) are those of one machine.
set -euo pipefail

# A trainer saves at these, and has five minutes for it.
launch=(torchrun --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout 300)

if [ "$1" = machine ]; then # one of several: srun has started this
    shift
    first=$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1)
    address=$(scontrol --oneliner show node "$first" | grep -oP ' NodeAddr=\K\S+')
    exec "${launch[@]}" --nnodes "$SLURM_STEP_NUM_NODES" --node-rank "$SLURM_NODEID" \
        --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" \
        --rdzv-endpoint "$address:$((20000 + SLURM_JOB_ID % 20000))" "$@"
fi

nodes=$1 processes=$2 threads=$3
shift 3
if [ "$nodes" = 1 ] && [ "$processes" = 1 ]; then
    exec python "$@"
elif [ "$nodes" = 1 ]; then
    exec "${launch[@]}" --standalone --nproc-per-node "$processes" "$@"
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "trainer.nodes is $nodes, and this is no Slurm job: run with --profile slurm, or set nodes to 1" >&2
    exit 2
fi
# Everything is said anew, because the executor plugin hides what the job was given; GPUs are all of the job's.
exec srun --nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1 --cpus-per-task "$threads" --kill-on-bad-exit=1 \
    "$0" machine --nproc-per-node "$processes" "$@"
