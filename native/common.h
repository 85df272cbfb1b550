// What the operators share: MXNet's extension interface, how attributes are read, shapes checked
// and failures reported.
//
// Operators throw. `infer_shape` and `compute` turn that into MX_FAIL and one line, which MXNet
// raises in Python as an MXNetError.
#pragma once

#include <locale.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "mxnet/lib_api.h"

using namespace mxnet::ext;  // NOLINT: the interface is meant to be used so

namespace {

typedef std::unordered_map<std::string, std::string> Attributes;
typedef std::vector<int64_t> Shape;
typedef std::vector<MXTensor> Tensors;

const int kUnknownType = -1;  // MXNet is still to infer it
const int64_t kUnknownSide = std::numeric_limits<unsigned int>::max();  // the same, of a side
const int64_t kLargest = std::numeric_limits<int32_t>::max();  // MXNet's longest side

// What an operator cannot compute: the message is for the user.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

bool has(const Attributes& attrs, const char* name) { return attrs.count(name) != 0; }

[[noreturn]] void refuse_value(const Attributes& attrs, const char* name) {
  throw Refused(std::string(name) + "=" + attrs.at(name) + " is out of range, or no number");
}

// Whether only spaces are left.
bool ends(const char* text) {
  while (*text == ' ') ++text;
  return *text == '\0';
}

// A decimal point is a point, whatever the locale of the process says.
double read_number(const Attributes& attrs, const char* name, double standard) {
  static const locale_t kPlain = newlocale(LC_ALL_MASK, "C", static_cast<locale_t>(0));
  if (!has(attrs, name)) return standard;
  const char* const text = attrs.at(name).c_str();
  char* end;
  const double value = strtod_l(text, &end, kPlain);
  if (end == text || !ends(end)) refuse_value(attrs, name);
  return value;
}

// Reads an integer from `least` to kLargest at *text, and moves *text behind it.
bool read_digits(const char** text, int64_t least, int64_t* value) {
  char* end;
  errno = 0;
  *value = std::strtoll(*text, &end, 10);
  const bool read = end != *text && errno == 0 && *value >= least && *value <= kLargest;
  *text = end;
  return read;
}

int64_t read_integer(const Attributes& attrs, const char* name, int64_t standard, int64_t least) {
  if (!has(attrs, name)) return standard;
  const char* text = attrs.at(name).c_str();
  int64_t value;
  if (!read_digits(&text, least, &value) || !ends(text)) refuse_value(attrs, name);
  return value;
}

// "(3, 2)" or "[3, 2]" -> 3, 2, which are MXNet's ways to write a pair, of rows and columns.
void read_pair(const Attributes& attrs, const char* name, int64_t least, int64_t* values) {
  if (!has(attrs, name)) throw Refused(std::string(name) + " is missing");
  const char* text = attrs.at(name).c_str();
  const char closing = *text == '(' ? ')' : *text == '[' ? ']' : '\0';
  bool read = closing != '\0' && read_digits(&++text, least, &values[0]);
  while (*text == ' ') ++text;
  read = read && *text == ',' && read_digits(&++text, least, &values[1]);
  while (*text == ' ') ++text;
  if (!read || *text != closing || !ends(text + 1)) refuse_value(attrs, name);
}

// Whether a relu is fused into the operator: it then has Activation's attribute act_type.
bool read_relu(const Attributes& attrs) {
  if (has(attrs, "act_type") && attrs.at("act_type") != "relu") refuse_value(attrs, "act_type");
  return has(attrs, "act_type");
}

// Whether products are to be of bfloat16.
bool read_bfloat16(const Attributes& attrs) {
  if (!has(attrs, "dtype") || attrs.at("dtype") == "float32") return false;
  if (attrs.at("dtype") != "bfloat16") refuse_value(attrs, "dtype");
  return true;
}

std::string text_of(const Shape& shape) {
  std::string text;
  for (int64_t side : shape) text += (text.empty() ? "(" : ", ") + std::to_string(side);
  return text + ")";
}

void check_shape(const MXTensor& tensor, const Shape& shape, const char* name) {
  if (tensor.shape != shape)
    throw Refused(std::string(name) + " has to be of shape " + text_of(shape) + ", not " +
                  text_of(tensor.shape));
}

// The memory of an array, which must have this shape.
float* floats(MXTensor& tensor, const Shape& shape, const char* name) {
  if (tensor.shape != shape || tensor.dtype != kFloat32)
    throw Refused(std::string(name) + " has to be float32 of shape " + text_of(shape) + ", not " +
                  text_of(tensor.shape));
  return tensor.data<float>();
}

template <typename Work>
MXReturnValue reported(const Work& work) {
  try {
    work();
    return MX_SUCCESS;
  } catch (const Refused& error) {
    MX_ERROR_MSG << error.what();
  } catch (const std::exception& error) {  // bad_alloc; length_error of a buffer beyond all memory
    MX_ERROR_MSG << "no memory for the operator's temporary arrays (" << error.what()
                 << "); use a smaller batch";
  }
  return MX_FAIL;
}

// MXNet's callback for shapes: `infer` takes the first input's shape and fills in those of the
// other inputs and of the outputs.
template <void (*infer)(const Attributes&, std::vector<Shape>*, std::vector<Shape>*)>
MXReturnValue infer_shape(const Attributes& attrs, std::vector<std::vector<unsigned int>>* in,
                          std::vector<std::vector<unsigned int>>* out) {
  return reported([&] {
    std::vector<Shape> inputs, outputs(out->size());
    for (const std::vector<unsigned int>& shape : *in)
      inputs.emplace_back(shape.begin(), shape.end());
    infer(attrs, &inputs, &outputs);
    for (const std::vector<Shape>* shapes : {&inputs, &outputs})
      for (const Shape& shape : *shapes)
        for (int64_t side : shape)
          if (side < 0 || (side > kLargest && side != kUnknownSide))
            throw Refused("an array of shape " + text_of(shape) + " has too long a side");
    for (size_t i = 0; i < inputs.size(); ++i) in->at(i).assign(inputs[i].begin(), inputs[i].end());
    for (size_t i = 0; i < outputs.size(); ++i)
      out->at(i).assign(outputs[i].begin(), outputs[i].end());
  });
}

// The callback that computes outputs, or the gradients of inputs.
template <void (*work)(const Attributes&, Tensors& in, Tensors& out)>
MXReturnValue compute(const Attributes& attrs, Tensors* in, Tensors* out, const OpResource&) {
  return reported([&] { work(attrs, *in, *out); });
}

// Inputs are to be of these types, the last of which counts for further ones, and the output is
// float32.
void infer_types(const std::vector<int>& types, std::vector<int>* in, std::vector<int>* out) {
  for (size_t i = 0; i < in->size(); ++i) {
    const int type = types[std::min(i, types.size() - 1)];
    if (in->at(i) != type && in->at(i) != kUnknownType)
      throw Refused(type == kFloat32 ? "this operator takes float32 only"
                                     : "this operator's weights are of another type");
    in->at(i) = type;
  }
  out->at(0) = kFloat32;
}

MXReturnValue float32_only(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  return reported([&] { infer_types({kFloat32}, in, out); });
}

// MXNet's callback for how many inputs and outputs an operator has.
template <int inputs, int outputs>
MXReturnValue counts(const Attributes&, int* in, int* out) {
  *in = inputs;
  *out = outputs;
  return MX_SUCCESS;
}

}  // namespace
