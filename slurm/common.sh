# shellcheck shell=bash
# What the templates share. They look for it beside themselves where sbatch was called from the root of the
# repository, and otherwise in the folder that AAM_SLURM names (Slurm runs a copy of a template from another place).
set -euo pipefail

# What PyTorch's store warns of when a process is gone; aam says in one line what happened.
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
# Since Slurm 22.05, srun does not take --cpus-per-task from the job by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}

fail() {
  echo "error: $*" >&2
  exit 2
}

# The folder of --output-dir among the words of a command; where it is given twice, the last one, as aam takes it.
output_dir() {
  local word before='' folder=''
  for word in "$@"; do
    if [ "$before" = --output-dir ]; then
      folder=$word
    fi
    case $word in
    --output-dir=*) folder=${word#*=} ;;
    --overwrite) fail "--overwrite in a job that may start again would delete what its first start has learned" ;;
    esac
    before=$word
  done
  [ -n "$folder" ] || fail "give --output-dir on the command line (not in a file of options): what is in it says whether to resume"
  printf '%s\n' "$folder"
}

# Leave in `words` the words of a command, with --resume where its folder holds a run already.
set_words() {
  local folder
  case ${1:-} in predict | embed)
    words=("$@")
    return
    ;;
  esac
  folder=$(output_dir "$@")
  words=("$@")
  if [ -e "$folder/config.json" ]; then
    words+=(--resume)
  fi
}

# Where the processes of the job meet: on its first node, at a port that two jobs on a node are unlikely to share.
set_meeting_point() {
  read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  MASTER_PORT=$((15000 + SLURM_JOB_ID % 15000)) # below the ports that systems hand out
  export MASTER_ADDR MASTER_PORT
}

# Start aam in each task of the job. No launcher is in between, so that signals and exit codes are those of aam.
# The processes end each other, with one message; a task that ends first therefore need not take the others with it at
# once (which would hide exit code 75), but nothing may hang: after two minutes Slurm ends what is left.
start_tasks() {
  # shellcheck disable=SC2016  # each task expands its own
  srun --kill-on-bad-exit=0 --wait=120 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec aam "$@"' aam "$@"
}
