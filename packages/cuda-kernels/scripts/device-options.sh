# Read by check-device.sh and measure-device.sh, whose beginnings say what this is: [--part NAME,...] [--results FOLDER].
# Sets package, emulate, parts (as they are, or all of $all_parts), folder (arguments that name the results' folder again), logs, results.
package=$(cd "$(dirname "$0")/.." && pwd)
emulate=${MAGICPIG_EMULATE_DEVICE:-}
parts=$all_parts
folder=()
while [ $# -gt 0 ]; do
  case $1 in
    --part) parts=${2:?name parts} && shift 2 ;;
    --results) folder=(--results "${2:?name a folder}") && shift 2 ;;
    *)
      echo "unknown argument $1: see the beginning of $0"
      exit 2
      ;;
  esac
done
for part in ${parts//,/ }; do
  [[ ,$all_parts, == *,$part,* ]] || {
    echo "there is no part '$part': $all_parts"
    exit 2
  }
done
logs=${folder[1]:-$package/build/device}
results=$logs
if [ ${#folder[@]} -eq 0 ] && [ -z "$emulate" ] && [ -d "$package/../../benchmarks" ]; then
  results=$package/../../benchmarks/results
fi
mkdir -p "$logs" "$results"
logs=$(cd "$logs" && pwd)
results=$(cd "$results" && pwd)
