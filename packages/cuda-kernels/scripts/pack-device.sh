#!/usr/bin/env bash
# Packs the built runner, with Node, for a machine with a GPU that has neither Node nor a network: build everything first
# (`npm test` at the root does), then
#
#   bash packages/cuda-kernels/scripts/pack-device.sh
#
# makes build/device-pack/magicpig.tar.xz in the package, which scripts/measure-device.sh unpacks. The addons are those built here, the
# emulated device among them: the machine needs a C library at least as new.
set -euo pipefail
package=$(cd "$(dirname "$0")/.." && pwd)
root=$(cd "$package/../.." && pwd)
out=$package/build/device-pack
rm -rf "$out"
mkdir -p "$out/app"

cd "$root"
npx --yes pnpm@10.34.9 --filter @magicpig/model-llama deploy --prod --legacy "$out/app" >"$out/deploy.log" 2>&1 || {
  tail -20 "$out/deploy.log"
  exit 1
}
cp -r packages/model-llama/bench "$out/app/"
# What is built in place is not among the files of a package; the programs of tests stay here.
for name in cpu-kernels cuda-kernels kv-offload lsh; do
  for target in $(find "$out/app" -type d -path "*/node_modules/@magicpig/$name" -not -path '*/device-pack/app/node_modules/.pnpm/*/dist/*'); do
    mkdir -p "$target/build/Release"
    find "packages/$name/build/Release" -maxdepth 1 -name '*.node' -not -name '*_idle.node' \
      -exec cp {} "$target/build/Release/" \;
  done
done
strip -o "$out/node" "$(command -v node)"
tar -C "$out" -cJf "$out/magicpig.tar.xz" app node
rm -rf "$out/app" "$out/node"
ls -l "$out/magicpig.tar.xz"
