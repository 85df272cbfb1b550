// Runs every C++ operator without MXNet and Python, at awkward shapes: for sanitizers, which see
// each array as a block of exactly its size, and for processors that MXNet itself does not run on.
//
// Prints a line with a checksum of the results for each case, and ends with 1 if an operator fails,
// or survives what it should refuse. With "allocations" as argument, each allocation of each
// operator fails once: it has to report that.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "../../native/ops.cc"
#include "cases.h"

namespace {

std::atomic<long> allocations_left{-1};  // below 0: no limit

}  // namespace

void* operator new(size_t size) {
  if (allocations_left.load() >= 0 && allocations_left.fetch_sub(1) <= 0) throw std::bad_alloc();
  void* const memory = std::malloc(size ? size : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

int failures = 0;

void fail(const std::string& what) {
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

// An array as MXNet hands it over, in a block of its own.
struct Array {
  Shape shape;
  std::unique_ptr<float[]> values;
  explicit Array(const Shape& s, int seed = -1) : shape(s), values(new float[size()]) {
    std::mt19937 random(seed);
    for (int64_t i = 0; i < size(); ++i)  // no distribution: those of libraries differ
      values[i] = seed < 0 ? NAN : static_cast<float>(random() % 2001) / 1000 - 1;
  }
  int64_t size() const {
    int64_t n = 1;
    for (int64_t side : shape) n *= side;
    return n;
  }
  MXTensor tensor() {
    return MXTensor(values.get(), shape, kFloat32, 0, MXContext::CPU(0));
  }
};

typedef std::vector<std::unique_ptr<Array>> Arrays;

Tensors tensors(const Arrays& arrays) {
  Tensors result;
  for (const std::unique_ptr<Array>& array : arrays) result.push_back(array->tensor());
  return result;
}

uint32_t checksum(const Arrays& arrays) {
  uint32_t hash = 2166136261u;
  for (const std::unique_ptr<Array>& array : arrays)
    for (int64_t i = 0; i < array->size(); ++i) {
      uint32_t bits;
      std::memcpy(&bits, &array->values[i], sizeof(bits));
      hash = (hash ^ bits) * 16777619u;
    }
  return hash;
}

CustomOp& find(const std::string& name) {
  Registry<CustomOp>* const all = Registry<CustomOp>::get();
  for (int i = 0; i < all->size(); ++i)
    if (name == all->get(i).name) {
      all->get(i).mapToVector();
      return all->get(i);
    }
  throw std::runtime_error("no operator " + name);
}

const OpResource& no_resource() {
  static const OpResource none(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                               nullptr, nullptr);
  return none;
}

typedef std::vector<std::vector<unsigned int>> Sides;

// Shapes of inputs and outputs; false if the operator refuses the case.
bool infer(const CustomOp& op, const Case& c, Sides* in, Sides* out) {
  in->assign(c.inputs, std::vector<unsigned int>());
  in->at(0).assign(c.data.begin(), c.data.end());
  if (c.op == "_alexnet_sgd_mom") in->assign(c.inputs, in->at(0));
  out->assign(1, std::vector<unsigned int>());
  return op.infer_shape(c.attrs, in, out) == MX_SUCCESS;
}

void set_zeros(Array* array) {
  for (int64_t i = 0; i < array->size(); ++i)
    if (i % 4 != i / 7 % 4) array->values[i] = 0;
}

Arrays make(const Sides& sides, int seed) {
  Arrays arrays;
  for (const std::vector<unsigned int>& shape : sides)
    arrays.emplace_back(new Array(Shape(shape.begin(), shape.end()), seed < 0 ? -1 : seed++));
  return arrays;
}

struct Run {
  Arrays in, out, gradient, back;
  bool forward, backward;
  explicit Run(const Case& c, const Sides& in_sides, const Sides& out_sides)
      : in(make(in_sides, 1)), out(make(out_sides, -1)), gradient(make(out_sides, 7)),
        back(make(in_sides, -1)), forward(false), backward(false) {
    if (c.sparse) {
      set_zeros(in[0].get());
      set_zeros(gradient[0].get());
    }
    if (c.op == "_alexnet_sgd_mom") out.clear();  // its results are inputs
  }
};

void run(CustomOp& op, const Case& c, Run* r) {
  Tensors in = tensors(r->in), out = tensors(r->out), back = tensors(r->back);
  r->forward = op.forward_fp[0](c.attrs, &in, &out, no_resource()) == MX_SUCCESS;
  if (op.backward_fp.empty() || !r->forward) return;
  Tensors all = tensors(r->gradient);
  all.insert(all.end(), in.begin(), in.end());
  all.insert(all.end(), out.begin(), out.end());
  r->backward = op.backward_fp[0](c.attrs, &all, &back, no_resource()) == MX_SUCCESS;
}

std::string title(const Case& c) {
  std::string text = c.op + " " + text_of(c.data);
  for (const char* name : {"kernel", "stride", "pad", "num_filter", "num_group", "num_hidden",
                           "nsize", "beta", "act_type", "pooling_convention", "dtype", "layout",
                           "out_layout", "map_range", "pool_kernel", "by_inputs",
                           "max_calib_range"})
    if (has(c.attrs, name)) text += std::string(" ") + name + "=" + c.attrs.at(name);
  return text + (c.sparse ? " sparse" : "");
}

void check(const Case& c) {
  CustomOp& op = find(c.op);
  Sides in, out;
  if (!infer(op, c, &in, &out)) return fail(title(c) + ": its shapes are refused");
  Run r(c, in, out);
  run(op, c, &r);
  if (!r.forward || (!op.backward_fp.empty() && !r.backward)) return fail(title(c));
  std::printf("%08x %08x %08x %s\n", checksum(r.out), checksum(r.back), checksum(r.in),
              title(c).c_str());
}

// Inference and computation have to refuse it; for the latter, arrays are made for `like`.
void check_refused(const Case& c, const Case& like) {
  CustomOp& op = find(c.op);
  Sides in, out, inferred, none;
  if (!infer(op, like, &in, &out)) return fail(title(like) + ": its shapes are refused");
  if (infer(op, c, &inferred, &none)) fail(title(c) + ": its shapes are not refused");
  Run r(like, in, out);
  run(op, c, &r);
  if (r.forward) fail(title(c) + ": is not refused");
  std::printf("refused %s\n", title(c).c_str());
}

// An array that is smaller than the others want it to be.
void check_sizes(const Case& c) {
  CustomOp& op = find(c.op);
  Sides in, out;
  infer(op, c, &in, &out);
  for (size_t i = 0; i < in.size(); ++i) {
    Sides wrong = in;
    wrong[i].back() += 1;
    if (in.size() == 1) wrong[i][0] -= 1;
    Run r(c, wrong, out);
    run(op, c, &r);
    if (r.forward) fail(title(c) + ": another size of an input is not refused");
  }
  std::printf("refused other sizes: %s\n", title(c).c_str());
}

// What run() says if it may allocate so often: on a thread of its own, whose buffers are empty, and
// which gives them back when it ends.
template <typename Work>
bool succeeds_with(long allocations, const Work& run) {
  bool done = false;
  std::thread([&] {
    allocations_left = allocations;
    done = run();
    allocations_left = -1;
  }).join();
  return done;
}

// Each allocation fails once.
void check_allocations(const Case& c) {
  CustomOp& op = find(c.op);
  Sides in, out;
  if (!infer(op, c, &in, &out)) return fail(title(c) + ": its shapes are refused");
  long failed = 0;
  for (bool done = false; !done; failed += !done) {
    Run r(c, in, out);
    Tensors ins = tensors(r.in), outs = tensors(r.out);
    done = succeeds_with(failed, [&] {
      return op.forward_fp[0](c.attrs, &ins, &outs, no_resource()) == MX_SUCCESS;
    });
  }
  std::printf("%ld allocations failed: %s\n", failed, title(c).c_str());
}

void check_pixels() {
  for (int64_t channels : {1, 3, 4})
    for (uint8_t mirrored : {0, 1}) {
      const int64_t images = 3, height = 5, width = 7, rows = 8, columns = 9, top = 3, left = 2;
      std::vector<std::unique_ptr<uint8_t[]>> whole;
      std::vector<const uint8_t*> starts;
      const std::vector<int64_t> strides(images, columns * channels);
      const std::vector<uint8_t> mirrors(images, mirrored);
      for (int64_t i = 0; i < images; ++i) {
        whole.emplace_back(new uint8_t[rows * columns * channels]);
        for (int64_t p = 0; p < rows * columns * channels; ++p)
          whole.back()[p] = static_cast<uint8_t>(p * 7 + i);
        starts.push_back(whole.back().get() + (top * columns + left) * channels);
      }
      std::unique_ptr<uint8_t[]> crops(new uint8_t[images * channels * height * width]);
      alexnet_crop(starts.data(), strides.data(), mirrors.data(), crops.get(), images, channels,
                   height, width);
      Arrays result;
      result.emplace_back(new Array({images, channels, height, width}));
      const std::vector<float> shift(images * channels, -100.5f), deviation(channels, 58.4f);
      alexnet_normalize(crops.get(), shift.data(), deviation.data(), result[0]->values.get(),
                        images, channels, height * width);
      std::printf("%08x pixels, %d channels%s\n", checksum(result), static_cast<int>(channels),
                  mirrored ? ", mirrored" : "");
    }
}

// An int8 operator with arrays in blocks of exactly their size.
struct Int8Run {
  const Case& c;
  CustomOp& op;
  std::vector<int> in_types, out_types;
  Sides in, out;
  std::vector<std::unique_ptr<uint8_t[]>> blocks;
  Tensors ins, outs;

  explicit Int8Run(const Case& of) : c(of), op(find(of.op)) {
    int inputs, outputs;
    op.parse_attrs(c.attrs, &inputs, &outputs);
    in_types.assign(inputs, -1);
    out_types.assign(outputs, -1);
    in.resize(inputs);
    out.resize(outputs);
    in[0].assign(c.data.begin(), c.data.end());
    if (op.infer_type(c.attrs, &in_types, &out_types) != MX_SUCCESS ||
        op.infer_shape(c.attrs, &in, &out) != MX_SUCCESS)
      throw std::runtime_error(title(c) + ": its shapes or types are refused");
    add(in, in_types, 1, &ins);
    add(out, out_types, -1, &outs);
  }

  // Integers of all values; floats from -1 to 1, or NaN for what is to be written.
  void add(const Sides& sides, const std::vector<int>& types, int seed, Tensors* to) {
    for (size_t i = 0; i < sides.size(); ++i) {
      const Array values(Shape(sides[i].begin(), sides[i].end()), seed < 0 ? -1 : seed++);
      const int64_t size = values.size() * (types[i] == kFloat32 ? sizeof(float) : 1);
      blocks.emplace_back(new uint8_t[size]);
      for (int64_t p = 0; types[i] != kFloat32 && p < size; ++p)
        blocks.back()[p] = static_cast<uint8_t>(p * 7 + p / 256 + i);
      if (types[i] == kFloat32) std::memcpy(blocks.back().get(), values.values.get(), size);
      to->push_back(MXTensor(blocks.back().get(), values.shape, static_cast<MXDType>(types[i]), 0,
                             MXContext::CPU(0)));
    }
  }

  bool forward() {
    return op.forward_fp[0](c.attrs, &ins, &outs, no_resource()) == MX_SUCCESS;
  }

  uint32_t checksum() const {
    uint32_t hash = 2166136261u;
    const int64_t size = outs[0].size() * (out_types[0] == kFloat32 ? sizeof(float) : 1);
    for (int64_t p = 0; p < size; ++p)
      hash = (hash ^ static_cast<const uint8_t*>(outs[0].data_ptr)[p]) * 16777619u;
    return hash;
  }
};

void check_int8_allocations(const Case& c) {
  long failed = 0;
  for (bool done = false; !done; failed += !done) {
    Int8Run r(c);
    done = succeeds_with(failed, [&] { return r.forward(); });
  }
  std::printf("%ld allocations failed: %s\n", failed, title(c).c_str());
}

void check_int8() {
  for (const Case& c : of_int8()) {
    Int8Run r(c);
    if (!r.forward()) fail(title(c));
    std::printf("%08x %s\n", r.checksum(), title(c).c_str());
    for (size_t i = 1; i <= r.ins.size(); ++i) {
      Int8Run wrong(c);
      (i < r.ins.size() ? wrong.ins[i] : wrong.outs[0]).shape.back() += 1;
      if (wrong.forward()) fail(title(c) + ": another size of an array is not refused");
    }
  }
  const Case convolution = of_int8().front(), layer = of_int8().back();
  const struct { Case like; const char *name, *value; } wrong[] = {
      {convolution, "kernel", "(99, 1)"}, {convolution, "kernel", "(2147483647, 2147483647)"},
      {convolution, "num_group", "2"}, {convolution, "num_filter", "0"},
      {convolution, "layout", "NCHW"}, {convolution, "layout", "NHWC"},
      {convolution, "pad", "(2147483647, 1)"}, {convolution, "input_range", "0"},
      {convolution, "max_calib_range", "-1"}, {convolution, "max_calib_range", "nan"},
      {convolution, "nsize", "3"}, {convolution, "knorm", "0"}, {convolution, "alpha", "-1"},
      {convolution, "pool_kernel", "(9, 3)"}, {convolution, "pad", "(1, -1)"},
      {layer, "num_hidden", "0"}, {layer, "max_calib_range", "0"}};
  for (const auto& each : wrong) {
    Case c = each.like;
    c.attrs[each.name] = each.value;
    Sides in(4), out(3);
    in[0].assign(c.data.begin(), c.data.end());
    if (find(c.op).infer_shape(c.attrs, &in, &out) == MX_SUCCESS)
      fail(title(c) + " " + each.name + "=" + each.value + ": is not refused");
  }
  for (const Shape& shape : {Shape{}, Shape{8}, Shape{2, 3}, Shape{2, 4, 3}}) {
    Sides in(4), out(3);
    in[0].assign(shape.begin(), shape.end());
    const bool fits = shape.size() == 3;
    if ((find(layer.op).infer_shape(layer.attrs, &in, &out) == MX_SUCCESS) != fits)
      fail("an int8 layer of " + text_of(shape));
  }
}

void check_inference_weights() {
  const CustomOp& op = find("_alexnet_fully_connected");
  const struct { const char* name; int type; } kinds[] = {
      {"int8", kInt8}, {"bfloat16", kInt32}, {"float32", kFloat32}};
  for (const auto& kind : kinds)
    for (const char* by_inputs : {"0", "1"})
      for (int64_t images : {1, 2, 5, 7, 13}) {
        const Case c = {"_alexnet_fully_connected",
                        {{"num_hidden", "75"}, {"weights", kind.name}, {"scale", "0.5"},
                         {"by_inputs", by_inputs}}, {images, 1100}, 3, true};
        Sides in, out;
        infer(op, c, &in, &out);
        Run r(c, in, out);
        const Shape shape(in[1].begin(), in[1].end());
        const int64_t size = shape[0] * shape[1] * (kind.type == kInt8 ? 1 : 4);
        std::unique_ptr<uint8_t[]> weights(new uint8_t[size]);
        for (int64_t i = 0; i < size; ++i)  // if not of int8: 1 to 2
          weights[i] = kind.type == kInt8 ? i * 7 : i % 2 ? 0x3f : 0x80 | (i * 3 % 128);
        Tensors ins = tensors(r.in), outs = tensors(r.out);
        ins[1] = MXTensor(weights.get(), shape, static_cast<MXDType>(kind.type), 0,
                          MXContext::CPU(0));
        if (op.forward_fp[0](c.attrs, &ins, &outs, no_resource()) != MX_SUCCESS) fail(kind.name);
        std::printf("%08x %s weights, by_inputs=%s, %d images\n", checksum(r.out), kind.name,
                    by_inputs, static_cast<int>(images));
      }
}

// One operator that keeps its weights' values meets other numbers of images, which take other
// methods, other weights, and the first ones again.
void check_kept_weights() {
  CustomOp& op = find("_alexnet_keeping_convolution");
  for (const int way : {0, 1, 2, 3}) {
    const bool constant = way >= 2;
    const char* const dtype = way % 2 ? "bfloat16" : "float32";
    const Attributes attrs = {{"kernel", "(5, 5)"}, {"pad", "(2, 2)"}, {"num_filter", "17"},
                              {"dtype", dtype}, {"constant", constant ? "1" : "0"}};
    CustomStatefulOp* keeping = nullptr;
    op.create_op_fp[0](attrs, MXContext::CPU(0), {}, {}, &keeping);
    std::unique_ptr<CustomStatefulOp> owner(keeping);
    const struct { int64_t images; int weights; } meetings[] = {
        {1, 2}, {60, 2}, {60, 2}, {60, 9}, {1, 9}, {1, 2}};
    for (const auto& each : meetings) {
      if (constant && each.weights != meetings[0].weights) continue;
      Arrays kept, plain;
      Array x({each.images, 3, 7, 7}, 1), w({17, 3, 5, 5}, each.weights), bias({17}, 3);
      Tensors ins = {x.tensor(), w.tensor(), bias.tensor()};
      for (Arrays* y : {&kept, &plain}) y->emplace_back(new Array({each.images, 17, 7, 7}));
      Tensors outs = tensors(kept), plain_outs = tensors(plain);
      const fcomp_t forward = find("_alexnet_convolution").forward_fp[0];
      if (keeping->Forward(&ins, &outs, no_resource()) != MX_SUCCESS ||
          forward(attrs, &ins, &plain_outs, no_resource()) != MX_SUCCESS ||
          checksum(kept) != checksum(plain))
        fail("kept weights");
      std::printf("%08x kept weights, %s%s, %d images\n", checksum(kept), dtype,
                  constant ? ", constant" : "", static_cast<int>(each.images));
    }
  }
}

void check_refusals() {
  const Case pool = {"_alexnet_max_pool", {{"kernel", "(2, 2)"}, {"stride", "(2, 2)"}},
                     {2, 3, 4, 7}, 1};
  const Case convolution = {"_alexnet_convolution", {{"kernel", "(3, 3)"}, {"num_filter", "4"}},
                            {2, 4, 7, 7}, 3};
  const Case dense = {"_alexnet_fully_connected", {{"num_hidden", "4"}}, {2, 3}, 3};
  const Case lrn = {"_alexnet_lrn", {{"nsize", "3"}}, {2, 3, 4, 4}, 1};
  const struct { Case like; const char *name, *value; } wrong[] = {
      {pool, "kernel", "(5, 2)"}, {pool, "kernel", "(2, 0)"}, {pool, "kernel", "(2, 8)"},
      {pool, "kernel", "(2, 2, 2)"}, {pool, "kernel", "2"}, {pool, "kernel", "(2, 2"},
      {pool, "stride", "(2, 0)"}, {pool, "stride", "(0, 2)"}, {pool, "stride", "(2, -1)"},
      {pool, "kernel", "(99999999999999999999, 2)"}, {convolution, "kernel", "(3, 5)"},
      {convolution, "kernel", "(3, 0)"}, {convolution, "pad", "(1, -1)"},
      {convolution, "pad", "(2147483647, 2147483647)"}, {convolution, "pad", "(1, x)"},
      {convolution, "pad", "(9223372036854775807, 0)"}, {convolution, "num_filter", "0"},
      {convolution, "num_filter", "4294967297"}, {convolution, "num_filter", "4.5"},
      {convolution, "num_group", "3"}, {convolution, "num_group", "0"},
      {convolution, "act_type", "tanh"}, {dense, "num_hidden", "0"},
      {dense, "num_hidden", "4294967300"}, {dense, "num_hidden", "1e300"}, {lrn, "nsize", "0"},
      {dense, "dtype", "float16"}, {convolution, "dtype", "half"},
      {lrn, "nsize", "1e300"}, {lrn, "alpha", "0,5"}, {lrn, "kernel", "(2, 2)"}};
  for (const auto& each : wrong) {
    Case c = each.like;
    c.attrs[each.name] = each.value;
    check_refused(c, each.like);
  }
  // The last window would begin at 2 * 3 of 6 rows.
  const Case beyond = {"_alexnet_max_pool", {{"kernel", "(1, 1)"}, {"stride", "(3, 3)"},
                       {"pooling_convention", "full"}}, {1, 1, 6, 6}, 1};
  Case within = beyond;
  within.attrs["pooling_convention"] = "valid";
  check_refused(beyond, within);
  const Case huge = {"_alexnet_fully_connected", {{"num_hidden", "4"}},
                     {2, 65536, 65536}, 3};
  Sides in, out;
  if (infer(find(huge.op), huge, &in, &out)) fail(title(huge) + ": its shapes are not refused");
  for (const Case& c : {pool, convolution, dense, updates()[1]}) check_sizes(c);
}

}  // namespace

int main(int argc, char**) {
  std::vector<Case> cases;
  for (auto make : {convolutions, fully_connected, of_bfloat16, normalisations_and_poolings,
                    updates})
    for (const Case& c : make()) cases.push_back(c);
  std::printf("variant: %s\n", alexnet_variant());
  if (argc > 1) {
    for (const Case& c : cases) check_allocations(c);
    for (const Case& c : of_int8()) check_int8_allocations(c);
  } else {
    for (const Case& c : cases) check(c);
    check_pixels();
    check_int8();
    check_inference_weights();
    check_kept_weights();
    check_refusals();
  }
  return failures > 0;
}
