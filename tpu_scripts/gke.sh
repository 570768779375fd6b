#!/usr/bin/env bash
# The same on GKE: a node pool for a slice, and any module of vjax on every host as a JobSet.
#
#   tpu_scripts/gke.sh pool NAME --cluster C --location L --slice v5p:4x4x4 [--spot | --reservation R]
#   tpu_scripts/gke.sh run NAME --slice v5p:4x4x4 --image IMAGE --share gs://BUCKET -- vjax.train FILE
#   tpu_scripts/gke.sh follow NAME       shows the log of the first host and waits for the end
#   tpu_scripts/gke.sh fetch NAME --share gs://BUCKET [PATH [TO]]     brings results back
#   tpu_scripts/gke.sh delete NAME       ends the run; the node pool stays
#
#   --slice KIND:SHAPE     v4, v5e, v5p, v6e or tpu7x and its shape in chips
#   --slices N             so many slices, each a node pool of its own
#   --image IMAGE          built by tpu_scripts/Dockerfile
#   --share WHAT           a bucket with a hierarchical namespace (gs://BUCKET), or a claim of a volume
#                          that many pods can write (a name): `runs` and compiled programs are kept there
#   --service-account K    the one in the cluster that may use the bucket
#   --restarts N           so often at most after failures; after preemptions it always does (10)
#   --spot, --reservation R, --project P, and --dry-run: print what would be run, and run nothing
#
# kubectl must be set to the cluster (gcloud container clusters get-credentials C --location L), and
# JobSet (0.6 or later) installed in it. `run` follows the log and ends as the JobSet does; Ctrl-C leaves it running.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

action=${1-}
[ $# -eq 0 ] || shift
case $action in
  -h | --help) takes='' && parse --help ;;
  pool) takes='--cluster= --location= --slice= --spot --reservation= --project=' ;;
  run) takes='--slice= --slices= --image= --share= --service-account= --restarts= --spot --reservation=' ;;
  fetch) takes='--share=' ;;
  follow | delete) takes='' ;;
  *) die "pool, run, follow, fetch or delete is needed, not ${action:-nothing}; see --help." ;;
esac
parse "$@"
[ "${#arguments[@]}" -eq 1 ] || [ "$action" = fetch ] || die "One name, not ${arguments[*]}."
[ -z "$spot" ] || [ -z "$reservation" ] || die "Only one of --spot and --reservation."
[[ -z $share || $share =~ ^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$ ]] || is_bucket "$share" ||
  die "--share $share: gs://BUCKET or the name of a claim is needed."

pool() {
  local machine
  [ -n "$cluster" ] || die "--cluster is missing."
  case $generation in
    v4) machine=ct4p-hightpu-4t ;;
    v5p) machine=ct5p-hightpu-4t ;;
    v5e) machine=ct5lp-hightpu-${chips_per_host}t ;;
    v6e) machine=ct6e-standard-${chips_per_host}t ;;
    tpu7x) die "A node pool of TPU7x needs a workload policy; make it as GKE's pages say." ;;
  esac
  run gcloud container node-pools create "$name" --cluster="$cluster" \
    --machine-type="$machine" --tpu-topology="$topology" --num-nodes="$hosts" \
    ${location:+"--location=$location"} ${project:+"--project=$project"} ${spot:+--spot} \
    ${reservation:+"--reservation-affinity=specific" "--reservation=$reservation"}
}

# A text as YAML reads it back.
yaml() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

# shellcheck disable=SC2034 # the template names them
render() {
  local bucket='' claim='' accelerator command line condition word key value
  case $generation in
    v4) accelerator=tpu-v4-podslice ;;
    v5e) accelerator=tpu-v5-lite-podslice ;;
    v5p) accelerator=tpu-v5p-slice ;;
    v6e) accelerator=tpu-v6e-slice ;;
    tpu7x) accelerator=tpu7x ;;
  esac
  case $share in
    gs://*) bucket=${share#gs://} ;;
    *) claim=$share ;;
  esac
  for key in name image bucket claim service_account reservation; do
    value=${!key}
    printf -v "$key" '%s' "${value:+$(yaml "$value")}"
  done
  command=$(yaml /vjax/tpu_scripts/host.sh)
  for word in exec "${module[@]}"; do command="$command, $(yaml "$word")"; done
  while IFS= read -r line; do
    condition=${line##* # if }
    if [ "$condition" != "$line" ]; then
      [ -n "${!condition}" ] || continue
      line=${line% # if *}
    fi
    while [[ $line =~ ^([^{]*)\{\{([a-z_]+)\}\}(.*)$ ]]; do
      key=${BASH_REMATCH[2]}
      printf '%s%s' "${BASH_REMATCH[1]}" "${!key}"
      line=${BASH_REMATCH[3]}
    done
    printf '%s\n' "$line"
  done <"$here/jobset.yaml"
}

follow() {
  local state said=''
  local pods="jobset.sigs.k8s.io/jobset-name=$name"
  local first="$pods,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
  if [ -n "$dry_run" ]; then
    run kubectl logs --follow --tail=-1 --selector="$first"
    run kubectl get jobset "$name" --output='jsonpath={.status.conditions[?(@.status=="True")].type}'
    return
  fi
  trap 'say "$name runs on in the cluster. Back to it: gke.sh follow $name; end it: gke.sh delete $name"; exit 130' INT
  while :; do
    if ! kubectl logs --follow --tail=-1 --selector="$first" 2>/dev/null && [ -z "$said" ]; then
      said=1
      say "$name has no pod that runs yet; what the cluster warns of, such as a bucket or nodes that are not there:"
      kubectl get events --field-selector=type=Warning --sort-by=.lastTimestamp 2>&1 | tail -n 5 >&2 || true
      say "More: kubectl describe pods --selector=$pods"
    fi
    state=$(kubectl get jobset "$name" \
      --output='jsonpath={.status.conditions[?(@.status=="True")].type}') ||
      die "There is no JobSet $name, or the cluster does not answer."
    case " $state " in
      *' Completed '*)
        say "$name has ended; its record goes with: gke.sh delete $name"
        return 0
        ;;
      *' Failed '*)
        say "$name has failed. Its pods: kubectl get pods --selector=$pods; it goes with: gke.sh delete $name"
        return 1
        ;;
    esac
    sleep "$poll"
  done
}

case $action in
  pool) pool ;;
  run)
    [[ ${module[0]-} == vjax.* ]] || die "A module of vjax is missing: -- vjax.train configs/FILE.py"
    for word in "${module[@]}" "$image" "$service_account" "$reservation"; do
      [[ $word != *[[:cntrl:]]* ]] || die "An argument has a line break or another control character."
    done
    [ -n "$image" ] || die "--image is missing; tpu_scripts/Dockerfile builds one."
    [ -n "$share" ] || [ "$((hosts * slices))" -eq 1 ] || die "Several hosts need --share."
    restarts=${restarts:-10}
    [[ $restarts =~ ^[0-9]+$ ]] || die "--restarts $restarts: a number is needed."
    rendered=$(render)
    if [ -n "$dry_run" ]; then
      printf '%s\n' "kubectl create --filename=- <<'END'" "$rendered" END
    else
      kubectl create --filename=- <<<"$rendered"
    fi
    follow
    ;;
  follow) follow ;;
  fetch)
    [[ $share == gs://* ]] || die "--share gs://BUCKET is needed; from a volume copy with a pod of yours."
    run mkdir -p "${arguments[2]:-.}"
    run gcloud storage rsync --recursive "$share/${arguments[1]:-runs}" "${arguments[2]:-.}"
    ;;
  delete) run kubectl delete jobset "$name" ;;
esac
