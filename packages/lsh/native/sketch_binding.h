#ifndef MAGICPIG_LSH_SKETCH_BINDING_H_
#define MAGICPIG_LSH_SKETCH_BINDING_H_

#include <napi.h>

namespace magicpig::lsh {

// Adds Sketch, openSketch and sketchBytes (src/key-sketch-engine.ts) to the addon's exports.
void InitSketch(Napi::Env env, Napi::Object exports);

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_SKETCH_BINDING_H_
