# make lab    three phones register, write, call and leave over ESP on this machine, and it is verified
# make test   all tests, those of the kernel on a kernel that has ESP
# make check  format, lint, types and unit tests
# make bench  CPU microseconds, one JSON object a line
# make long   what takes longer than CI may: more kills, a longer soak, floods of 10 s each as one JSON object a line
# make docker-test  the image, and the scenarios of the lab in containers
# make samples  the captures of pcap-samples, made anew

PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
LAB_PACKAGES := python3-venv iproute2 nftables util-linux
TEST_PACKAGES := user-mode-linux kmod tshark tcpdump sngrep iptables systemd sip-tester chromium prometheus bind9-utils
DOCKER_PACKAGES := docker.io docker-compose debootstrap iptables
UNDER_LOAD := tests/interop/test_load.py tests/interop/test_soak.py
KERNEL_OUTPUT := .kernel-tests.txt
WITH_KERNEL_ESP := $(addprefix tests/interop/,test_many.py test_calls.py test_tshark.py test_explain.py test_restart.py \
  test_guards.py::test_guards_that_are_flushed_are_put_back_and_nothing_passes_meanwhile \
  test_guards.py::test_a_protected_port_does_not_hear_the_side_of_the_core \
  test_capture.py::test_both_views_are_recorded test_lab.py::test_lab_verifies_three_ues)
# On the slow kernel, where each start of a program takes seconds, these are left to `make long`.
LONG_WITH_KERNEL_ESP := $(patsubst %,'tests/interop/%',test_calls.py::test_a_life_of_two_phones[tcp-4] \
  test_calls.py::test_a_life_of_two_phones[udp-6] test_calls.py::test_old_sets_end_and_the_call_goes_on[tcp] \
  test_restart.py::test_a_store_that_is_no_store_is_set_aside test_restart.py::test_the_time_from_start_to_serving[100] \
  test_tshark.py::test_tshark_shows_the_protected_register[hmac-md5-96/des-ede3-cbc] \
  test_capture.py::test_tcpdump_and_the_key_file_open_it_afterwards)
.DEFAULT_GOAL := lab
.PHONY: lab test check bench long samples docker-test packages test-packages clean

# Install what is missing of the system packages $(1); where we are not root, say what to install.
define need
	@missing=""; for package in $(1); do \
	  [ "$$(dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null)" = installed ] || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "Missing system packages; please install:$$missing"; \
	  echo "on Debian and Ubuntu: sudo apt-get install$$missing"; exit 1; \
	fi; \
	echo "== installing system packages:$$missing" >&2; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null
endef

lab: packages $(VENV)/installed
	@echo "== pcscf lab"
	@$(VENV)/bin/pcscf lab

test: packages test-packages $(VENV)/installed-dev
	@[ "$$(id -u)" = 0 ] || { echo "The tests make namespaces, veth and ESP: run them as root (sudo make test)"; exit 1; }
	@echo "== interoperation, the page in a browser, unit tests; beside them ESP of both backends, whose output follows"
	@{ $(VENV)/bin/python -m tests.kernel.run --timeout 1800 -q --color=no --esp=kernel tests/kernel $(WITH_KERNEL_ESP) \
	    $(addprefix --deselect=,$(LONG_WITH_KERNEL_ESP)) && \
	  $(VENV)/bin/pytest -q --color=no tests/kernel --esp=userspace; } > $(KERNEL_OUTPUT) 2>&1 & kernel=$$!; \
	$(VENV)/bin/pytest -q tests/interop tests/browser $(addprefix --ignore=,$(UNDER_LOAD)) && \
	  $(VENV)/bin/pytest -q tests/unit tests/fuzz; native=$$?; \
	wait $$kernel; status=$$?; cat $(KERNEL_OUTPUT); [ $$native = 0 ] && [ $$status = 0 ]
	@echo "== load"
	$(VENV)/bin/pytest -q $(UNDER_LOAD)

check: packages $(VENV)/installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -q tests/unit

bench: packages test-packages $(VENV)/installed-dev
	@$(VENV)/bin/python -m tests.bench fake
	@$(VENV)/bin/python -m tests.bench looked-at
	@PCSCF_LONG=1 $(VENV)/bin/python -m tests.kernel.run -q -s --color=no tests/interop/test_restart.py -k serving
	@$(VENV)/bin/python -m tests.kernel.run --exec $(abspath $(VENV))/bin/python -m tests.bench kernel 1000

long: packages test-packages $(VENV)/installed-dev
	$(VENV)/bin/python -m tests.kernel.run -q --color=no $(LONG_WITH_KERNEL_ESP)
	PCSCF_TEST_KILLS=3000 PCSCF_TEST_SOAK_SECONDS=300 $(VENV)/bin/pytest -q -s tests/interop/test_kills.py tests/interop/test_soak.py
	@$(VENV)/bin/python -m tests.bench flood

docker-test: $(VENV)/installed
	$(if $(shell command -v docker),,$(call need,$(DOCKER_PACKAGES)))
	@docker/test.sh

samples: packages $(VENV)/installed-dev
	@$(VENV)/bin/python -m tests.samples

packages:
	$(call need,$(LAB_PACKAGES))

test-packages:
	$(call need,$(TEST_PACKAGES))

$(VENV)/bin/pip: | packages
	@echo "== making the virtual environment $(VENV) with $(PYTHON)" >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say which with make PYTHON=...")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/pip
	@echo "== installing pcscf and its libraries into $(VENV)" >&2
	@$(VENV)/bin/pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/pip
	@echo "== installing pcscf with its test tools into $(VENV)" >&2
	@$(VENV)/bin/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) $(KERNEL_OUTPUT) lab .mypy_cache .pytest_cache .ruff_cache .hypothesis
