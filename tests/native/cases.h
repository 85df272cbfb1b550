// The shapes and attributes at which tests/native/driver.cc runs each operator.
#pragma once

#include <string>
#include <vector>

#include "../../native/common.h"

namespace {

struct Case {
  std::string op;
  Attributes attrs;
  Shape data;
  int inputs;
  bool sparse;  // three of four values of the data, and of the output's gradient, are zero
};

std::vector<Case> convolutions() {
  std::vector<Case> cases;
  const Shape shapes[] = {{1, 1, 5, 5}, {2, 3, 8, 11}, {1, 17, 6, 7}, {3, 32, 13, 13},
                          {70, 2, 5, 9}, {1, 48, 27, 5}};
  for (const char* kernel : {"(3, 3)", "[5,5]"})
    for (const char* pad : {"(0, 0)", "(1, 2)", "(4,3)"})
      for (const Shape& shape : shapes)
        cases.push_back({"_alexnet_convolution",
                         {{"kernel", kernel}, {"pad", pad}, {"num_filter", "17"}}, shape, 3});
  cases.push_back({"_alexnet_convolution", {{"kernel", "(3, 3)"}, {"num_filter", "40"},
                   {"num_group", "2"}, {"act_type", "relu"}}, {5, 34, 13, 12}, 3});
  cases.push_back({"_alexnet_convolution", {{"kernel", "(5, 5)"}, {"pad", "(2, 2)"},
                   {"num_filter", "3"}, {"act_type", "relu"}}, {2, 2, 1, 1}, 3});
  for (const Shape& shape : {Shape{60, 2, 7, 7}, Shape{12, 3, 27, 9}})  // by Fourier's method
    cases.push_back({"_alexnet_convolution", {{"kernel", "(5, 5)"}, {"pad", "(2, 2)"},
                     {"num_filter", "17"}}, shape, 3});
  for (const Shape& shape : {Shape{3, 34, 3, 3}, Shape{2, 34, 1, 2}})  // whole maps
    cases.push_back({"_alexnet_convolution", {{"kernel", "(3, 3)"}, {"pad", "(1, 1)"},
                     {"num_filter", "40"}, {"num_group", "2"}, {"act_type", "relu"}}, shape, 3});
  // A panel of weights' values and of their gradients for each thread, and more.
  for (const char* kernel : {"(3, 3)", "(5, 5)"})
    cases.push_back({"_alexnet_convolution", {{"kernel", kernel}, {"pad", "(1, 2)"},
                     {"num_filter", "200"}, {"num_group", "2"}}, {3, 198, 6, 7}, 3});
  cases.push_back({"_alexnet_first_convolution", {{"kernel", "(11, 11)"}, {"stride", "(4, 4)"},
                   {"num_filter", "100"}, {"act_type", "relu"}}, {2, 3, 31, 27}, 3});
  for (const char* pad : {"(0, 0)", "(2, 3)"})
    for (const Shape& shape : {Shape{1, 1, 11, 11}, Shape{3, 3, 31, 44}, Shape{2, 6, 15, 12}})
      cases.push_back({"_alexnet_first_convolution",
                       {{"kernel", "(11, 11)"}, {"stride", "(4, 4)"}, {"pad", pad},
                        {"num_filter", "18"}, {"act_type", "relu"}}, shape, 3});
  cases.push_back({"_alexnet_first_convolution", {{"kernel", "(5, 5)"}, {"stride", "(2, 2)"},
                   {"num_filter", "9"}, {"num_group", "3"}}, {2, 3, 9, 16}, 3});
  return cases;
}

std::vector<Case> of_int8() {
  std::vector<Case> cases;
  const char* const op = "_alexnet_int8_convolution";
  const Attributes first = {{"kernel", "(11, 11)"}, {"stride", "(4, 4)"}, {"num_filter", "37"},
                            {"input_range", "1"}, {"max_calib_range", "9"}, {"nsize", "5"},
                            {"pool_kernel", "(3, 3)"}, {"pool_stride", "(2, 2)"}};
  Attributes pooled_first = first, last = first;
  pooled_first.insert({{"map_range", "20"}, {"pooling_convention", "full"}, {"pad", "(2, 1)"}});
  last["out_layout"] = "NHWC";
  for (const Attributes& attrs : {first, pooled_first, last})
    for (int64_t images : {1, 2, 3, 6})  // shared by threads as images, and as parts of each
      cases.push_back({op, attrs, {images, 3, 31, 27}, 4});
  const Attributes plain = {{"kernel", "(3, 2)"}, {"pad", "(1, 3)"}, {"num_filter", "6"},
                            {"num_group", "2"}, {"max_calib_range", "90"}};
  Attributes by_last = plain;
  by_last.insert({{"layout", "NHWC"}, {"out_layout", "NHWC"}});
  for (int64_t images : {1, 2}) {
    cases.push_back({op, plain, {images, 10, 5, 7}, 4});
    cases.push_back({op, by_last, {images, 5, 7, 10}, 4});
    cases.push_back({op, {{"kernel", "(1, 1)"}, {"num_filter", "64"}, {"max_calib_range", "9"}},
                     {images, 1, 1, 1}, 4});
  }
  for (const char* range : {"50", "90"})
    cases.push_back({"_alexnet_int8_fully_connected", {{"num_hidden", "70"}, {"by_inputs", "1"},
                     {"max_calib_range", range}}, {range[0] == '5' ? 1 : 2, 2, 3, 6}, 4});
  for (int64_t images : {1, 4, 9, 12, 13, 30})
    for (const Attributes& attrs : {Attributes{{"num_hidden", "70"}},
                                    Attributes{{"num_hidden", "70"}, {"max_calib_range", "50"}}})
      cases.push_back({"_alexnet_int8_fully_connected", attrs, {images, 2, 3, 6}, 4});
  return cases;
}

std::vector<Case> of_bfloat16() {
  std::vector<Case> cases;
  for (const char* kernel : {"(3, 3)", "(5, 5)"})
    for (const Shape& shape : {Shape{1, 1, 5, 5}, Shape{2, 33, 13, 7}, Shape{9, 66, 6, 7}})
      cases.push_back({"_alexnet_convolution",
                       {{"kernel", kernel}, {"pad", "(1, 4)"}, {"num_filter", "37"},
                        {"act_type", "relu"}}, shape, 3});
  cases.push_back({"_alexnet_convolution", {{"kernel", "(3, 3)"}, {"num_filter", "40"},
                   {"num_group", "2"}}, {3, 34, 13, 12}, 3});
  cases.push_back({"_alexnet_convolution", {{"kernel", "(3, 3)"}, {"pad", "(1, 1)"},
                   {"num_filter", "40"}}, {3, 34, 3, 3}, 3});
  for (const Shape& shape : {Shape{1, 1, 11, 11}, Shape{3, 3, 31, 44}})
    cases.push_back({"_alexnet_first_convolution",
                     {{"kernel", "(11, 11)"}, {"stride", "(4, 4)"}, {"pad", "(2, 3)"},
                      {"num_filter", "18"}}, shape, 3});
  for (const char* outputs : {"1", "33", "1100"})
    for (const Shape& shape : {Shape{1, 1}, Shape{13, 257}, Shape{33, 3, 5, 7}})
      cases.push_back({"_alexnet_fully_connected", {{"num_hidden", outputs}}, shape, 3});
  for (Case& each : cases) each.attrs["dtype"] = "bfloat16";
  return cases;
}

std::vector<Case> fully_connected() {
  std::vector<Case> cases;
  for (const char* outputs : {"1", "5", "33", "130"})
    for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{13, 257}, Shape{33, 3, 5, 7},
                               Shape{131, 40}})
      cases.push_back({"_alexnet_fully_connected", {{"num_hidden", outputs}}, shape, 3});
  cases.push_back({"_alexnet_fully_connected", {{"num_hidden", "523"}}, {13, 2100}, 3});
  // Whole strips of rows at an array's end: all three thirds, two of them.
  for (int64_t rows : {24, 20})
    cases.push_back({"_alexnet_fully_connected", {{"num_hidden", std::to_string(rows)}},
                     {rows, 257}, 3});
  for (const char* outputs : {"16", "33", "430"})
    for (const Shape& shape : {Shape{16, 16}, Shape{67, 257}, Shape{131, 1101}, Shape{193, 257}})
      cases.push_back({"_alexnet_fully_connected", {{"num_hidden", outputs}}, shape, 3, true});
  return cases;
}

std::vector<Case> normalisations_and_poolings() {
  std::vector<Case> cases;
  for (const char* nsize : {"1", "4", "5", "99"})
    for (const char* beta : {"0.75", "0.5"})
      for (const Shape& shape : {Shape{1, 1, 1, 1}, Shape{2, 3, 5, 7}, Shape{2, 13, 30, 19},
                                 Shape{2, 7}, Shape{1, 2, 129, 5}})
        cases.push_back({"_alexnet_lrn",
                         {{"nsize", nsize}, {"beta", beta}, {"alpha", "0.01"}}, shape, 1});
  for (const char* convention : {"valid", "full"}) {
    const Attributes windows[] = {{{"kernel", "(3, 3)"}, {"stride", "(2, 2)"}},
                                  {{"kernel", "(3, 3)"}, {"stride", "(1, 1)"}},
                                  {{"kernel", "(2, 4)"}, {"stride", "(2, 1)"}},
                                  {{"kernel", "(1, 2)"}, {"stride", "(1, 3)"}}};
    for (Attributes attrs : windows) {
      attrs["pooling_convention"] = convention;
      const int64_t width = attrs["stride"] == "(1, 3)" ? 8 : 9;  // each window begins inside
      for (const Shape& shape : {Shape{1, 1, 3, width}, Shape{2, 13, 20, width}}) {
        cases.push_back({"_alexnet_max_pool", attrs, shape, 1});
        Attributes joined = attrs;
        joined.insert({{"nsize", "5"}, {"act_type", "relu"}, {"knorm", "1"}});
        cases.push_back({"_alexnet_lrn", joined, shape, 1});
      }
    }
  }
  return cases;
}

std::vector<Case> updates() {
  const Attributes attrs = {{"lr", "0.01"}, {"wd", "5e-4"}, {"momentum", ".9"},
                            {"rescale_grad", "0.0078125"}};
  return {{"_alexnet_sgd_mom", attrs, {1}, 3}, {"_alexnet_sgd_mom", attrs, {3, 5}, 3},
          {"_alexnet_sgd_mom", attrs, {50001}, 3}};
}

}  // namespace
