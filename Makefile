# SPDX-License-Identifier: MIT
# framevisor. Everything that is built goes to $(BUILD); "make help" lists the targets.

SAN     ?=
comma   := ,
BUILD   ?= build$(if $(SAN),-$(subst $(comma),-,$(SAN)))
CC      := gcc
AR      := gcc-ar
CLANG   ?= clang
PREFIX  ?= /usr/local
DESTDIR ?=
V       ?= 0
Q       := $(if $(filter 1,$(V)),,@)

WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	-Wundef -Wvla -Wwrite-strings -Wformat=2 -Wimplicit-fallthrough -Wcast-align -Wnull-dereference
CPPFLAGS := -Iinclude -I. -I$(BUILD)/include -D_GNU_SOURCE -include framevisor/version.h
CFLAGS   := -std=gnu17 $(if $(SAN),-O1,-O2) -g -fno-strict-aliasing -fno-common -fstack-protector-strong -pthread $(WARNINGS)
LDFLAGS  := -pthread
ifneq ($(SAN),)
# Warnings that follow the flow of values see ghosts in instrumented code; the plain build judges.
CFLAGS   += -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all -Wno-error
LDFLAGS  += -fsanitize=$(SAN)
else
CPPFLAGS += -D_FORTIFY_SOURCE=2
CFLAGS   += -fPIE
LDFLAGS  += -pie -Wl,-z,relro,-z,now
endif

# Programs: what has a main() of its own. Everything else is in one of three archives.
MAINS    := vmm/main.c vmm/owner/main.c
MM_SRC   := $(wildcard mm/*.c)
DEV_SRC  := $(wildcard devices/*.c)
VMM_SRC  := $(filter-out $(MAINS),$(wildcard vmm/*.c vmm/*/*.c))
HEADERS  := $(wildcard include/framevisor/*.h mm/*.h devices/*.h vmm/*.h vmm/*/*.h)
C_FILES  := $(MM_SRC) $(DEV_SRC) $(VMM_SRC) $(MAINS) $(HEADERS) $(wildcard tests/*/*.c tests/*/*.h guest-tests/*/*.c guest-tests/*/*.h)

objects   = $(patsubst %.c,$(BUILD)/%.o,$(1))
LIBMM    := $(BUILD)/libframemm.a
LIBDEV   := $(BUILD)/libdevices.a
LIBVMM   := $(BUILD)/libvmm.a
ALL_LIBS := $(LIBVMM) $(LIBDEV) $(LIBMM)
LDLIBS   := -ljansson -lnuma -lzstd -luring -lseccomp

UNIT_SRC   := $(wildcard tests/unit/test_*.c)
MODEL_SRC  := $(wildcard tests/model/test_*.c)
TEST_BINS  := $(patsubst %.c,$(BUILD)/%,$(UNIT_SRC) $(MODEL_SRC))
UNIT_BINS  := $(patsubst %.c,$(BUILD)/%,$(UNIT_SRC))
# DPDK is a peer in the benchmarks, where it is installed.
DPDK_CFLAGS := $(patsubst -I%,-isystem %,$(shell pkg-config --cflags libdpdk 2>/dev/null))
BENCH_SRC  := $(filter-out $(if $(DPDK_CFLAGS),,tests/bench/bench_peer_dpdk.c),$(wildcard tests/bench/bench_*.c))
BENCH_BINS := $(patsubst %.c,$(BUILD)/%,$(BENCH_SRC))
FUZZ_SRC   := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BINS  := $(patsubst %.c,$(BUILD)/%,$(FUZZ_SRC))

GUEST_TESTS := $(filter-out lib linux,$(patsubst guest-tests/%/,%,$(wildcard guest-tests/*/)))
GUEST_ELFS  := $(patsubst %,$(BUILD)/guest-tests/%.elf,$(GUEST_TESTS))

.PHONY: all
all: $(BUILD)/framevisor $(BUILD)/framevisord ## build framevisor, framevisord and libframemm.a

$(BUILD)/framevisor: $(call objects,vmm/main.c) $(ALL_LIBS)
	@echo "  LD      $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(ALL_LIBS) -Wl,--end-group $(LDLIBS)

$(BUILD)/framevisord: $(call objects,vmm/owner/main.c) $(ALL_LIBS)
	@echo "  LD      $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(ALL_LIBS) -Wl,--end-group $(LDLIBS)

$(LIBMM): $(call objects,$(MM_SRC))
$(LIBDEV): $(call objects,$(DEV_SRC))
$(LIBVMM): $(call objects,$(VMM_SRC))
$(LIBMM) $(LIBDEV) $(LIBVMM):
	@echo "  AR      $@"
	$(Q)rm -f $@ && $(AR) rcs $@ $^

# The flags are part of what an object depends on: a changed flag rebuilds.
FLAGS_STAMP := $(BUILD)/flags
$(FLAGS_STAMP): FORCE
	@mkdir -p $(BUILD)
	@echo '$(CC) $(CPPFLAGS) $(CFLAGS)' | cmp -s - $@ || echo '$(CC) $(CPPFLAGS) $(CFLAGS)' > $@
.PHONY: FORCE
FORCE:

$(BUILD)/%.o: %.c $(FLAGS_STAMP)
	@mkdir -p $(@D)
	@echo "  CC      $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# DSDT: ACPI source to a C array (unsigned char dsdt_aml_code[]).
$(BUILD)/include/dsdt.hex: vmm/boot/dsdt.asl
	@mkdir -p $(@D)
	@echo "  IASL    $<"
	$(Q)iasl -vs -tc -p $(BUILD)/include/dsdt $< > $(BUILD)/iasl.log 2>&1 || { cat $(BUILD)/iasl.log; exit 1; }
$(BUILD)/vmm/boot/acpi.o: $(BUILD)/include/dsdt.hex

# Tests in C: one program per file, with cmocka.
$(TEST_BINS): $(BUILD)/%: $(BUILD)/%.o $(ALL_LIBS)
	@echo "  LD      $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(ALL_LIBS) -Wl,--end-group -lcmocka $(LDLIBS)

# Benchmarks in C: one program per file, each prints its own figures.
$(BENCH_BINS): $(BUILD)/%: $(BUILD)/%.o $(ALL_LIBS)
	@echo "  LD      $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(ALL_LIBS) -Wl,--end-group $(LDLIBS)

$(BUILD)/tests/bench/bench_peer_dpdk.o: private CPPFLAGS += $(DPDK_CFLAGS)
$(BUILD)/tests/bench/bench_peer_dpdk: private LDLIBS += $(shell pkg-config --libs libdpdk 2>/dev/null)

# Fuzzers: clang with libFuzzer, everything instrumented, in a tree of its own.
FUZZ_BUILD := $(BUILD)/fuzz-objects
FUZZ_FLAGS := -std=gnu17 -O1 -g -fno-omit-frame-pointer -pthread -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
FUZZ_OBJS  := $(patsubst %.c,$(FUZZ_BUILD)/%.o,$(MM_SRC) $(DEV_SRC) $(VMM_SRC))
FUZZ_LIB   := $(BUILD)/libfuzz-all.a
$(FUZZ_BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CLANG) $(CPPFLAGS) $(FUZZ_FLAGS) -MMD -MP -c -o $@ $<
$(FUZZ_BUILD)/vmm/boot/acpi.o: $(BUILD)/include/dsdt.hex
$(FUZZ_LIB): $(FUZZ_OBJS)
	@echo "  AR      $@"
	$(Q)rm -f $@ && ar rcs $@ $^
$(FUZZ_BINS): $(BUILD)/tests/fuzz/%: $(FUZZ_BUILD)/tests/fuzz/%.o $(FUZZ_LIB)
	@mkdir -p $(@D)
	@echo "  FUZZ    $@"
	$(Q)$(CLANG) -pthread -fsanitize=fuzzer,address,undefined -o $@ $< $(FUZZ_LIB) $(LDLIBS)

# Freestanding guests: guest-tests/NAME/*.c with guest-tests/lib, one ELF each.
GUEST_CFLAGS := -std=gnu17 -O2 -g -ffreestanding -fno-pic -fno-pie -mno-red-zone -mno-sse -mno-mmx -mno-avx -mgeneral-regs-only \
	-fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none -mcmodel=small -Wall -Wextra -Werror -Iguest-tests/lib -Iinclude
GUEST_LIB := $(wildcard guest-tests/lib/*.c guest-tests/lib/*.S guest-tests/lib/*.h guest-tests/lib/*.ld)
define guest_rule
$(BUILD)/guest-tests/$(1).elf: $(wildcard guest-tests/$(1)/*.c guest-tests/$(1)/*.h) $(GUEST_LIB)
	@mkdir -p $$(@D)
	@echo "  GUEST   $$@"
	$$(Q)$(CC) $$(GUEST_CFLAGS) -nostdlib -static -no-pie -Wl,-T,guest-tests/lib/guest.ld -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
		-o $$@ $$(filter %.c %.S,$$^)
endef
$(foreach guest,$(GUEST_TESTS),$(eval $(call guest_rule,$(guest))))

.PHONY: guests
guests: $(GUEST_ELFS) ## build the freestanding guest programs

.PHONY: tests-build
tests-build: all $(TEST_BINS) guests

.PHONY: bench-build
bench-build: $(BENCH_BINS)

.PHONY: unit
unit: all $(TEST_BINS) ## build and run the unit and model tests
	$(Q)tests/run --only c

.PHONY: fuzzers
fuzzers: $(FUZZ_BINS) ## build the libFuzzer targets

.PHONY: format
format: ## rewrite all C files in the project's format
	clang-format -i $(C_FILES)

.PHONY: check
check: all $(UNIT_BINS) lint ## what must pass before each commit: format, warnings, linters, unit tests
	$(Q)tests/run --only unit

SCRIPTS := $(wildcard .ci/run tests/host/*.sh tests/host/early/* guest-tests/linux/build guest-tests/linux/root/init)

.PHONY: lint
lint: all ## format and linters
	@echo "  SHELLCHECK"
	$(Q)if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); fi
	@echo "  FORMAT"
	$(Q)clang-format --dry-run --Werror $(C_FILES)
	@echo "  TIDY"
	$(Q)printf '%s\n' $(MM_SRC) $(DEV_SRC) $(VMM_SRC) $(MAINS) | \
		xargs -P 2 -n 4 sh -c 'clang-tidy --quiet "$$@" -- $(CPPFLAGS) -std=gnu17 2>/dev/null' sh
	@echo "  CPPCHECK"
	$(Q)cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 --suppress=missingIncludeSystem \
		--suppress=normalCheckLevelMaxBranches -j 2 -D__x86_64__ -D_GNU_SOURCE --include=include/framevisor/version.h -Iinclude -I. $(MM_SRC) $(DEV_SRC) $(VMM_SRC) $(MAINS)

.PHONY: test
test: ## install what is missing, build, run every test (root)
	$(Q)tests/host/packages.sh
	$(Q)$(MAKE) --no-print-directory -j2 tests-build
	$(Q)tests/run

.PHONY: run
run: ## install what is missing, build, boot a stock Linux guest on pool frames (root)
	$(Q)tests/host/packages.sh
	$(Q)$(MAKE) --no-print-directory -j2 all
	$(Q)tests/host/tour.sh

.PHONY: bench
bench: ## measure, beside peers, in one run; writes the figures to $(BUILD)/bench and docs/performance.md
	$(Q)tests/host/packages.sh --bench
	$(Q)$(MAKE) --no-print-directory -j2 tests-build bench-build
	$(Q)tests/bench/run

.PHONY: install
install: all ## install into $(DESTDIR)$(PREFIX)
	install -D -m 755 $(BUILD)/framevisor $(DESTDIR)$(PREFIX)/bin/framevisor
	install -D -m 755 $(BUILD)/framevisord $(DESTDIR)$(PREFIX)/bin/framevisord
	install -D -m 644 $(LIBMM) $(DESTDIR)$(PREFIX)/lib/libframemm.a
	install -d $(DESTDIR)$(PREFIX)/include/framevisor
	install -m 644 include/framevisor/*.h $(DESTDIR)$(PREFIX)/include/framevisor/
	install -D -m 644 README.md $(DESTDIR)$(PREFIX)/share/doc/framevisor/README.md

.PHONY: clean
clean: ## remove everything that was built
	rm -rf build build-*

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  SAN=address,undefined or SAN=thread builds with sanitizers into build-...; V=1 shows commands"

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
