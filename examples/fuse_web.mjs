// Fuses two gray pictures of one size in a browser, with onnxruntime-web beside this
// file: `npm install onnxruntime-web` and copy its dist/ort.wasm.min.mjs and
// dist/ort-wasm-simd-threaded.{mjs,wasm}.
import * as ort from "./ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more need a page that is cross-origin isolated

export const load = (url) => ort.InferenceSession.create(url);

// `ir` and `vis` are Uint8Arrays of height * width levels, row by row.
export async function fuse(session, ir, vis, height, width) {
  const tensor = (levels) =>
    new ort.Tensor("float32", Float32Array.from(levels, (x) => x / 255), [1, height, width, 1]);
  const { fused } = await session.run({ ir: tensor(ir), vis: tensor(vis) });
  const levels = Uint8ClampedArray.from(fused.data, (x) => 255 * x); // rounds
  return { levels, height: fused.dims[1], width: fused.dims[2] };
}
