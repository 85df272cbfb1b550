// Threads, and what happens when one of them fails: an exception must not leave an OpenMP region,
// or the process ends.
//
// Without -fopenmp these are plain threads. ThreadSanitizer needs that (tests/native/sanitize.py):
// it cannot see how GCC's OpenMP synchronises, and would report every region.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#else
#include <thread>
#endif

#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

namespace {

// The first exception of several threads.
class FirstFailure {
 public:
  template <typename Work>
  void guard(const Work& work) {
    try {
      work();
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr failure_;
};

// Calls work(thread, threads) on each thread, and throws what one of the calls has thrown.
template <typename Work>
void on_each_thread(const Work& work) {
  FirstFailure failure;
#ifdef _OPENMP
#pragma omp parallel
  failure.guard([&] { work(omp_get_thread_num(), omp_get_num_threads()); });
#else
  const int64_t threads = 3;
  std::vector<std::thread> running;
  for (int64_t thread = 0; thread < threads; ++thread)
    running.emplace_back([&, thread] { failure.guard([&] { work(thread, threads); }); });
  for (std::thread& thread : running) thread.join();
#endif
  failure.rethrow();
}

// Calls work(first, last) on each thread, for its share of [0, count).
template <typename Work>
void split(int64_t count, const Work& work) {
  on_each_thread([&](int64_t thread, int64_t threads) {
    work(count * thread / threads, count * (thread + 1) / threads);
  });
}

// Calls work(i) for each i in [0, count).
template <typename Work>
void parallel_for(int64_t count, const Work& work) {
  split(count, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) work(i);
  });
}

}  // namespace
