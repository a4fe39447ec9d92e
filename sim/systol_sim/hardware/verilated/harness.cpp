// Runs one whole program on the verilated machine. Compiled together with the model into a shared
// library; `runner.py` describes the same structure to Python.
//
// Python owns all memories. A request that is accepted in one cycle is answered in the next one, or
// later if a delay is asked for. Every access is checked against its memory's size: a program that
// faults may point anywhere.

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <deque>
#include <fstream>
#include <memory>
#include <stdexcept>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "Vsystol_machine.h"
#include "verilated.h"
#if VM_TRACE_FST
#include "verilated_fst_c.h"
#elif VM_TRACE_VCD
#include "verilated_vcd_c.h"
#endif

// Verilator's spelling of the port `memory__name`: it keeps double underscores for itself.
#define PORT(memory, name) memory##___05F##name

namespace {

constexpr int kUnits = 6;
constexpr int kWindows = 16;
constexpr int kWidestBeat = 64;

enum Status : int32_t { kHalted = 0, kFaulted = 1, kLimit = 2 };

}  // namespace

extern "C" struct SystolRun {
    // The program and its memories.
    const uint32_t* registers;  // pairs of address and value
    int64_t register_count;
    uint8_t* memories[1 + kWindows];  // weight memory, then the host windows
    uint64_t memory_bytes[1 + kWindows];
    int64_t code_length;
    int64_t cycle_limit;
    // The memories' behaviour.
    int32_t port_bytes[2];  // of the weight port and of the host port
    int32_t extra_delay;    // responses come up to so many cycles late, at random
    int32_t stall_percent;  // cycles in which a request is not accepted, at random
    uint64_t seed;          // memories with neither of these answer a sync_host at once
    // What is read back.
    const uint32_t* counter_addresses;  // group << 8 | tag << 4 | code
    int64_t* counters;
    int64_t counter_count;
    int64_t counter_latency;
    uint8_t* ub;  // null if not wanted
    int64_t ub_bytes;
    int64_t ub_row_bytes;
    uint8_t* accumulators;
    int64_t accumulator_rows;
    int64_t accumulator_row_bytes;
    const char* waves;  // the file to write, in a model that was built to draw waveforms
    // Results.
    int64_t* times;  // (code_length, 2), filled with -1
    uint32_t* interrupts;
    int64_t interrupt_count;
    int64_t cycles;
    int64_t fault_pc;
    int64_t fault_cycle;
    int32_t status;
    int32_t fault_cause;
    int32_t fault_unit;
    uint32_t status_word;
    int32_t waves_error;  // errno of what could not be written; the run then stopped
    // Set by another thread, to end the run soon and without results.
    int32_t stop;
};

namespace {

struct Response {
    int64_t due;
    uint8_t data[kWidestBeat];
};

// One memory behind a port: serves requests from Python's arrays.
class Memory {
public:
    Memory(SystolRun& run, int port) : run_(run), bytes_(run.port_bytes[port]), host_(port == 1),
                                       state_(run.seed * 2 + port + 1),
                                       exact_(!run.extra_delay && !run.stall_percent) {}

    bool ready() { return exact_ || random() % 100 >= static_cast<uint32_t>(run_.stall_percent); }

    void accept(int64_t cycle, bool write, unsigned window, uint64_t address, const void* data,
                uint64_t strobe) {
        Response response;
        const unsigned index = host_ ? 1 + window % kWindows : 0;
        uint8_t* const memory = run_.memories[index];
        const uint64_t size = run_.memory_bytes[index];
        const bool whole = address + bytes_ <= size;
        if (write) {
            const uint8_t* const source = static_cast<const uint8_t*>(data);
            for (int i = 0; i < bytes_; ++i) {
                if ((strobe >> i & 1) && address + i < size) memory[address + i] = source[i];
            }
        } else if (whole) {
            std::memcpy(response.data, memory + address, bytes_);
        } else {
            for (int i = 0; i < bytes_; ++i) {
                response.data[i] = address + i < size ? memory[address + i] : 0;
            }
        }
        response.due = cycle + 1;
        if (run_.extra_delay) response.due += random() % (run_.extra_delay + 1);
        queue_.push_back(response);
    }

    // The response for this cycle, or null.
    const uint8_t* respond(int64_t cycle) {
        if (queue_.empty() || queue_.front().due > cycle) return nullptr;
        std::memcpy(current_, queue_.front().data, bytes_);
        queue_.pop_front();
        return current_;
    }

private:
    uint32_t random() {  // xorshift64*
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return static_cast<uint32_t>((state_ * 0x2545F4914F6CDD1DULL) >> 32);
    }

    SystolRun& run_;
    const int bytes_;
    const bool host_;
    uint64_t state_;
    const bool exact_;
    uint8_t current_[kWidestBeat] = {};
    std::deque<Response> queue_;
};

// The program that waits for a sync_host: answers at once, or like slow memories some time later.
class Host {
public:
    explicit Host(const SystolRun& run) : state_(run.seed * 0x9E3779B97F4A7C15ULL | 1),
                                          exact_(!run.extra_delay && !run.stall_percent) {}

    // Whether it acknowledges in this cycle, in which it is waited for.
    bool acknowledges() {
        if (exact_) return true;
        state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
        return (state_ >> 33) % kThinkingCycles == 0;
    }

private:
    static constexpr int kThinkingCycles = 32;  // on average: about a port's latency
    uint64_t state_;
    const bool exact_;
};

// Thrown to leave a run before its end.
struct Stopped {};

bool asked_to_stop(const SystolRun& run) { return __atomic_load_n(&run.stop, __ATOMIC_RELAXED); }

#if VM_TRACE
// The waveform file, empty at first. `error()` is the errno of the first failure, or 0.
class File {
public:
    explicit File(const SystolRun& run) : run_(run) {}

    void open(const char* name) {
        file_ = ::open(name, O_CREAT | O_WRONLY | O_TRUNC | O_NONBLOCK | O_CLOEXEC, 0666);
        if (file_ < 0) fail(errno);
    }
    void close() {
        if (file_ >= 0 && ::close(file_) < 0) fail(errno);
        file_ = -1;
    }
    ssize_t write(const char* bytes, ssize_t length) {
        const ssize_t written = ::write(file_, bytes, length);
        if (written < 0 && errno == EAGAIN && !asked_to_stop(run_)) {  // a pipe with a slow reader
            pollfd pipe{file_, POLLOUT, 0};
            ::poll(&pipe, 1, kPatienceMilliseconds);
            errno = EAGAIN;
        } else if (written < 0 && errno != EINTR) {
            fail(errno);
        }
        return written;
    }
    void fail(int error) {
        if (!error_) error_ = error;
    }
    int error() const { return error_; }

private:
    static constexpr int kPatienceMilliseconds = 100;
    const SystolRun& run_;
    int file_ = -1;
    int error_ = 0;
};

constexpr int kAllLevels = 99;
#endif

#if VM_TRACE_VCD
// What Verilator writes into. If it is told of an error it waits forever for a lock that it holds
// itself, and would otherwise end the process: so it is told of none, and the rest is dropped.
class VcdFile : public VerilatedVcdFile {
public:
    explicit VcdFile(File& file) : file_(file) {}
    bool open(const std::string&) override { return !file_.error(); }
    void close() override { file_.close(); }
    ssize_t write(const char* bytes, ssize_t length) override {
        const ssize_t written = file_.error() ? length : file_.write(bytes, length);
        return file_.error() ? length : written;
    }

private:
    File& file_;
};

class Waves {
public:
    explicit Waves(const SystolRun& run) : file_(run) {}

    void open(Vsystol_machine& top, const char* name) {
        file_.open(name);
        top.trace(&writer_, kAllLevels);
        writer_.open(name);
    }
    void draw(uint64_t time) { writer_.dump(time); }
    void close() { writer_.close(); }
    int error() const { return file_.error(); }

private:
    File file_;
    VcdFile sink_{file_};
    VerilatedVcdC writer_{&sink_};
};
#elif VM_TRACE_FST
// Verilator's writer opens the file by its name and keeps nearly all in memory until it is closed. It
// says nothing of most errors, but then the file has no header, which is written last; it throws
// where it finds itself at a wrong place in the file (fst_assertion.h).
class Waves {
public:
    explicit Waves(const SystolRun& run) : file_(run) {}
    ~Waves() {
        if (writer_) guarded([&] { writer_->close(); });
    }

    void open(Vsystol_machine& top, const char* name) {
        name_ = name;
        file_.open(name);
        file_.close();
        if (file_.error()) return;
        errno = 0;
        top.trace(writer_.get(), kAllLevels);
        guarded([&] { writer_->open(name); });
    }
    void draw(uint64_t time) {
        guarded([&] { writer_->dump(time); });
    }
    void close() {
        guarded([&] { writer_->close(); });
        if (file_.error()) return;
        const int reason = errno;
        char header[kHeaderBytes] = {};
        std::ifstream(name_, std::ios::binary).read(header, kHeaderBytes);
        if (!header[kHeaderBytes - 1]) file_.fail(reason ? reason : EIO);
    }
    int error() const { return file_.error(); }

private:
    static constexpr int kHeaderBytes = 9;  // of its type, 0, and its length, which ends in no 0

    template <typename Work>
    void guarded(Work work) {
        if (file_.error()) return;
        try {
            work();
        } catch (const std::runtime_error&) {
            file_.fail(errno ? errno : EIO);
            writer_.release();  // its destructor would try again, and end the process
        }
    }

    File file_;
    std::string name_;
    std::unique_ptr<VerilatedFstC> writer_{new VerilatedFstC};
};
#endif

class Bench {
public:
    explicit Bench(SystolRun& run) : run_(run), context_(new VerilatedContext),
                                     top_(new Vsystol_machine{context_.get()}),
                                     weight_(run, 0), host_(run, 1), sync_(run) {}

    void execute() {
        open_waves();
        reset();
        for (int64_t i = 0; i < run_.register_count; ++i) {
            top_->config_write = 1;
            top_->config_address = run_.registers[2 * i];
            top_->config_data = run_.registers[2 * i + 1];
            clock();
        }
        top_->config_write = 0;
        top_->start = 1;
        clock();
        top_->start = 0;
        while (!top_->running) clock();
        program();
        // The counters' last additions, and beats that a fault left behind.
        for (int i = 0; i < 8; ++i) step(run_.cycles + i, false);
        close_waves();
        finish();
        read_counters();
        if (run_.ub) read_ub();
        if (run_.accumulators) read_accumulators();
        top_->final();
    }

private:
    void heed_stop() const {
        if (asked_to_stop(run_)) throw Stopped();
    }

    void clock() {
        heed_stop();
        top_->clk = 1;
        top_->eval();
        top_->clk = 0;
        top_->eval();
    }

    void reset() {
        top_->rst = 1;
        top_->clk = 0;
        top_->eval();
        clock();
        top_->rst = 0;
        top_->eval();
    }

    void program() {
        int64_t cycle = 0;
        run_.status = kLimit;
        draw(0);
        while (top_->running) {
            if (cycle == run_.cycle_limit) break;
            step(cycle++, true);
        }
        run_.cycles = cycle;
    }

    // One cycle: its requests and events are seen, its responses given, and the clock rises.
    void step(int64_t cycle, bool tracing) {
        if (tracing) {
            if (top_->trace_starts | top_->trace_ends) trace(cycle);
            if (top_->interrupt_valid) {
                run_.interrupts[run_.interrupt_count++] = top_->interrupt_value;
            }
        }
        const bool weight_ready = weight_.ready();
        const bool host_ready = host_.ready();
        const uint8_t* const weight_data = weight_.respond(cycle);
        const uint8_t* const host_data = host_.respond(cycle);
        if (top_->PORT(weight, request_valid) && weight_ready) {
            weight_.accept(cycle, top_->PORT(weight, request_write), 0, top_->PORT(weight, request_address),
                           &top_->PORT(weight, request_data), top_->PORT(weight, request_strobe));
        }
        if (top_->PORT(host, request_valid) && host_ready) {
            host_.accept(cycle, top_->PORT(host, request_write), top_->PORT(host, request_window),
                         top_->PORT(host, request_address), &top_->PORT(host, request_data),
                         top_->PORT(host, request_strobe));
        }
        top_->sync_ack = top_->sync_valid && sync_.acknowledges();
        top_->PORT(weight, request_ready) = weight_ready;
        top_->PORT(host, request_ready) = host_ready;
        top_->PORT(weight, response_valid) = weight_data != nullptr;
        top_->PORT(host, response_valid) = host_data != nullptr;
        if (weight_data) std::memcpy(&top_->PORT(weight, response_data), weight_data, run_.port_bytes[0]);
        if (host_data) std::memcpy(&top_->PORT(host, response_data), host_data, run_.port_bytes[1]);
#if VM_TRACE
        heed_stop();
        top_->eval();
        draw(kCycleTime * cycle + kCycleTime / 2);
        top_->clk = 1;
        top_->eval();
        draw(kCycleTime * (cycle + 1));
        top_->clk = 0;
        top_->eval();
#else
        clock();
#endif
    }

    // Waveforms: cycle t begins at t ns, with the clock's rise, and its inputs come half a cycle later.
#if VM_TRACE
    void open_waves() {
        context_->traceEverOn(true);
        waves_.open(*top_, run_.waves);
        check_waves();
    }
    void draw(uint64_t time) {
        waves_.draw(time);
        check_waves();
    }
    void close_waves() {
        waves_.close();
        check_waves();
    }
    void check_waves() {
        run_.waves_error = waves_.error();
        if (run_.waves_error) throw Stopped();
    }
#else
    void open_waves() {}
    void draw(uint64_t) {}
    void close_waves() {}
#endif

    void trace(int64_t cycle) {
        const uint64_t starts[kUnits] = {
            top_->trace_control_start_pc, top_->trace_load_start_pc, top_->trace_store_start_pc,
            top_->trace_weights_start_pc, top_->trace_matrix_start_pc, top_->trace_vector_start_pc};
        const uint64_t ends[kUnits] = {
            top_->trace_control_end_pc, top_->trace_load_end_pc, top_->trace_store_end_pc,
            top_->trace_weights_end_pc, top_->trace_matrix_end_pc, top_->trace_vector_end_pc};
        for (int unit = 0; unit < kUnits; ++unit) {
            if (top_->trace_starts >> unit & 1) record(starts[unit], 0, cycle);
            if (top_->trace_ends >> unit & 1) record(ends[unit], 1, cycle);
        }
    }

    void record(uint64_t pc, int which, int64_t cycle) {
        if (pc < static_cast<uint64_t>(run_.code_length)) run_.times[2 * pc + which] = cycle;
    }

    void finish() {
        run_.status_word = top_->status;
        if (top_->halted) run_.status = kHalted;
        if (top_->faulted) {
            run_.status = kFaulted;
            run_.fault_cause = top_->fault_cause;
            run_.fault_unit = top_->fault_unit;
            run_.fault_pc = top_->fault_pc;
            run_.fault_cycle = top_->fault_cycle;
        }
    }

    void read_counters() {
        const int64_t latency = run_.counter_latency;
        for (int64_t i = 0; i < run_.counter_count + latency; ++i) {
            if (i >= latency) run_.counters[i - latency] = top_->read_data;
            if (i < run_.counter_count) {
                const uint32_t address = run_.counter_addresses[i];
                top_->read_group = address >> 8;
                top_->read_tag = address >> 4 & 15;
                top_->read_code = address & 15;
            }
            clock();
        }
    }

    void read_ub() {
        for (int64_t address = 0; address < run_.ub_bytes; address += run_.ub_row_bytes) {
            top_->inspect_address = address;
            clock();
            std::memcpy(run_.ub + address, &top_->inspect_ub, run_.ub_row_bytes);
        }
    }

    void read_accumulators() {
        for (int64_t row = 0; row < run_.accumulator_rows; ++row) {
            top_->inspect_address = row;
            clock();
            std::memcpy(run_.accumulators + row * run_.accumulator_row_bytes,
                        &top_->inspect_accumulators, run_.accumulator_row_bytes);
        }
    }

    SystolRun& run_;
    const std::unique_ptr<VerilatedContext> context_;
    const std::unique_ptr<Vsystol_machine> top_;
    Memory weight_;
    Memory host_;
    Host sync_;
#if VM_TRACE
    static constexpr uint64_t kCycleTime = 1000;  // ps
    Waves waves_{run_};
#endif
};

}  // namespace

extern "C" uint64_t systol_run_bytes() { return sizeof(SystolRun); }

extern "C" void systol_run(SystolRun* run) {
    try {
        Bench(*run).execute();
    } catch (const Stopped&) {
    }
}
