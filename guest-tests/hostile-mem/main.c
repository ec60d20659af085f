/* SPDX-License-Identifier: MIT */
/*
 * A virtio-mem driver that breaks the rules. A request that asks for what it may not have is
 * answered with ERROR or NACK and changes nothing; a message that is none ends in
 * DEVICE_NEEDS_RESET. In either case the machine goes on, no memory of the guest changes, and the
 * device works afterwards. Last of all the guest uses blocks that it does not have.
 */
#include "balloon.h"
#include "virtio_mem.h"

const char guest_name[] = "hostile-mem";

#define MARK 0x6e6f74796f757273ull

/* Blocks by number: KEPT is plugged from beginning to end, PLAY comes and goes. */
#define KEPT 1
#define PLAY 3

static struct virtio_mem mem;
static struct balloon balloon;
static struct virtio_mem_req request;
static struct virtio_mem_resp answer;

static volatile uint64_t *block_words(uint64_t block, uint64_t page)
{
	return (volatile uint64_t *)(uintptr_t)(mem_block(&mem, block) + page * PAGE_SIZE);
}

/* What must be so after each offence. */
static void check_kept(const char *what)
{
	uint64_t plugged = mem_plugged(&mem);

	if (plugged != mem.block_size)
		guest_fail("%s: the device counts 0x%lx bytes plugged, not one block", what,
			   plugged);
	if (mem_state(&mem, KEPT, 1) != VIRTIO_MEM_STATE_PLUGGED)
		guest_fail("%s: the block that was kept is not plugged", what);
	for (uint64_t page = 0; page < PAGES_PER_FRAME; page++)
		if (*block_words(KEPT, page) != MARK + page)
			guest_fail("%s: page %lu of the block that was kept changed", what, page);
}

static void check_zero(const char *what, uint64_t block)
{
	for (uint64_t page = 0; page < PAGES_PER_FRAME; page++)
		if (*block_words(block, page))
			guest_fail("%s: page %lu of a new block reads 0x%lx", what, page,
				   *block_words(block, page));
}

/* ---- Requests that must be refused ---- */

static void refused(const char *what, uint16_t type, uint64_t addr, uint16_t nr, uint16_t expected)
{
	uint16_t result = mem_request(&mem, type, addr, nr, NULL);

	if (result != expected)
		guest_fail("%s: request %u for %u blocks at 0x%lx is answered with %u, not %u",
			   what, (unsigned int)type, (unsigned int)nr, addr, (unsigned int)result,
			   (unsigned int)expected);
	if (virtio_status(&mem.dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		guest_fail("%s: the device wants a reset", what);
	check_kept(what);
}

/* Plug, unplug and state name blocks in the same way. */
static void bad_range(const char *what, uint64_t addr, uint16_t nr)
{
	static const uint16_t types[] = { VIRTIO_MEM_REQ_PLUG, VIRTIO_MEM_REQ_UNPLUG,
					  VIRTIO_MEM_REQ_STATE };

	for (unsigned int i = 0; i < 3; i++)
		refused(what, types[i], addr, nr, VIRTIO_MEM_RESP_ERROR);
	print("hostile-mem: %s: refused\n", what);
}

static void bad_ranges(void)
{
	uint64_t block = mem.block_size, usable = mem.addr + mem_usable(&mem);

	bad_range("below the region", mem.addr - block, 1);
	bad_range("into the region from below", mem.addr - block, 2);
	bad_range("address 0", 0, 1);
	bad_range("RAM", GUEST_IMAGE, 1);
	bad_range("the local APIC", LAYOUT_LAPIC & ~(block - 1), 1);
	bad_range("the end of the usable region", usable, 1);
	bad_range("over the end of the usable region", usable - block, 2);
	bad_range("the end of the region", mem.addr + mem.region_size, 1);
	bad_range("over the end of the region", mem.addr + mem.region_size - block, 2);
	bad_range("the last block there can be", ~0ull - block + 1, 1);
	bad_range("a range that wraps", ~0ull - block + 1, 2);
	bad_range("a range that wraps into the region", mem.addr - block, 0xffff);
	bad_range("the sign bit", mem.addr | 1ull << 63, 1);
	bad_range("no block", mem_block(&mem, KEPT), 0);
	bad_range("no block at no address", ~0ull, 0);
	bad_range("one byte beside a block", mem_block(&mem, KEPT) + 1, 1);
	bad_range("one page beside a block", mem_block(&mem, KEPT) + PAGE_SIZE, 1);
	bad_range("half a block beside a block", mem_block(&mem, KEPT) + block / 2, 1);
	if (mem_usable(&mem) / block < 0xffff)
		bad_range("65535 blocks", mem.addr, 0xffff);
}

static void bad_types(void)
{
	static const uint16_t types[] = { 4, 0x100, 0x8000, 0xffff };

	for (unsigned int i = 0; i < 4; i++)
		refused("an unknown request", types[i], mem_block(&mem, KEPT), 1,
			VIRTIO_MEM_RESP_ERROR);
	print("hostile-mem: unknown requests: refused\n");
}

/* Blocks in the wrong state, alone and among others: all or nothing. */
static void bad_states(void)
{
	refused("a plugged block plugged", VIRTIO_MEM_REQ_PLUG, mem_block(&mem, KEPT), 1,
		VIRTIO_MEM_RESP_ERROR);
	refused("a plugged block plugged among others", VIRTIO_MEM_REQ_PLUG,
		mem_block(&mem, KEPT - 1), 3, VIRTIO_MEM_RESP_ERROR);
	refused("an unplugged block unplugged", VIRTIO_MEM_REQ_UNPLUG, mem_block(&mem, PLAY), 1,
		VIRTIO_MEM_RESP_ERROR);
	refused("unplugged blocks unplugged with a plugged one", VIRTIO_MEM_REQ_UNPLUG,
		mem_block(&mem, KEPT - 1), 3, VIRTIO_MEM_RESP_ERROR);
	print("hostile-mem: blocks in the wrong state: refused\n");
}

static void beyond_requested(void)
{
	uint64_t blocks = mem_requested(&mem) / mem.block_size;

	/* KEPT counts already; blocks PLAY to PLAY + blocks - 2 would be the last that fit. */
	refused("one block too many at once", VIRTIO_MEM_REQ_PLUG, mem_block(&mem, PLAY),
		(uint16_t)blocks, VIRTIO_MEM_RESP_NACK);
	mem_plug(&mem, PLAY, (uint16_t)(blocks - 1));
	if (mem_request(&mem, VIRTIO_MEM_REQ_PLUG, mem_block(&mem, KEPT - 1), 1, NULL) !=
	    VIRTIO_MEM_RESP_NACK)
		guest_fail("one block more than requested is not refused with NACK");
	mem_unplug(&mem, PLAY, (uint16_t)(blocks - 1));
	check_kept("all but what was too many");
	print("hostile-mem: more than requested: refused\n");
}

/* ---- Messages that are none ---- */

static struct vring_desc out(const void *buf, uint32_t len)
{
	return (struct vring_desc){ .addr = (uint64_t)(uintptr_t)buf, .len = len };
}

static struct vring_desc in(void *buf, uint32_t len)
{
	struct vring_desc desc = out(buf, len);

	desc.flags = VRING_DESC_F_WRITE;
	return desc;
}

/* Offers a chain of nr descriptors, from 0 on. */
static void offer(const struct vring_desc *descs, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		mem.vq.desc[i] = descs[i];
		if (i + 1 < nr) {
			mem.vq.desc[i].flags |= VRING_DESC_F_NEXT;
			mem.vq.desc[i].next = (uint16_t)(i + 1);
		}
	}
	vq_offer(&mem.vq, 0);
}

/* A request that would be carried out, were it not for the message that it is in. */
static void ask(uint16_t type, uint64_t block)
{
	request = (struct virtio_mem_req){ .type = type };
	request.u.plug.addr = mem_block(&mem, block);
	request.u.plug.nb_blocks = 1;
	memset(&answer, 0xa5, sizeof(answer));
}

static bool needs_reset(struct virtio_pci *dev)
{
	uint64_t start = rdtsc();

	while (!(virtio_status(dev) & VIRTIO_CONFIG_S_NEEDS_RESET))
		if (rdtsc() - start > PATIENCE)
			return false;
	return true;
}

/* After the offence: the verdict, then a reset, then a block out and in again. */
static void broken(const char *what)
{
	if (!needs_reset(&mem.dev))
		guest_fail("%s: no DEVICE_NEEDS_RESET", what);
	mem_start(&mem);
	if (virtio_status(&mem.dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		guest_fail("%s: still needs a reset after one", what);
	check_kept(what);
	mem_plug(&mem, PLAY, 1);
	*block_words(PLAY, 0) = MARK;
	mem_unplug(&mem, PLAY, 1);
	check_kept(what);
	print("hostile-mem: %s: needs reset\n", what);
}

static void bad_message(const char *what, struct vring_desc first, struct vring_desc second)
{
	const struct vring_desc descs[2] = { first, second };

	ask(VIRTIO_MEM_REQ_PLUG, PLAY);
	offer(descs, second.len ? 2 : 1);
	broken(what);
}

static void bad_messages(void)
{
	const struct vring_desc none = { .len = 0 };
	struct vring_desc whole = out(&request, sizeof(request));
	struct vring_desc room = in(&answer, sizeof(answer));
	struct vring_desc indirect = whole;
	void *unplugged = (void *)(uintptr_t)mem_block(&mem, PLAY);

	indirect.flags = VRING_DESC_F_INDIRECT;
	bad_message("a request of 23 bytes", out(&request, 23), room);
	bad_message("a request of one byte", out(&request, 1), room);
	bad_message("no request", room, none);
	bad_message("no room for the answer", whole, none);
	bad_message("room for 9 bytes of the answer", whole, in(&answer, 9));
	bad_message("an answer to read from", whole, out(&answer, sizeof(answer)));
	bad_message("the answer before the request", room, whole);
	bad_message("a request in an unplugged block", out(unplugged, sizeof(request)), room);
	bad_message("an answer in an unplugged block", whole, in(unplugged, sizeof(answer)));
	bad_message("a request over the end of a plugged block",
		    out((const uint8_t *)unplugged - 8 - (PLAY - KEPT - 1) * mem.block_size,
			sizeof(request)),
		    room);
	bad_message("an indirect table that was not negotiated", indirect, room);

	ask(VIRTIO_MEM_REQ_PLUG, PLAY);
	mem.vq.desc[0] = whole;
	mem.vq.desc[0].flags = VRING_DESC_F_NEXT;
	mem.vq.desc[0].next = 0;
	vq_offer(&mem.vq, 0);
	broken("a descriptor that follows itself");
	vq_offer(&mem.vq, 0xffff);
	broken("a head out of range");
	mem.vq.avail.idx = (uint16_t)(mem.vq.avail.idx + VQ_SIZE + 1);
	vq_notify(&mem.vq);
	broken("an index too far ahead");
}

/* Odd, but within the rules: a message in small pieces, with more room than is needed. */
static void message_in_pieces(void)
{
	uint8_t *from = (uint8_t *)&request, *to = (uint8_t *)&answer;
	const struct vring_desc descs[] = { out(from, 1), out(from + 1, 8), out(from + 9, 15),
					    in(to, 3),    in(to + 3, 1),    in(to + 4, 6) };

	ask(VIRTIO_MEM_REQ_STATE, KEPT);
	offer(descs, 6);
	if (!vq_wait(&mem.dev, &mem.vq) || answer.type != VIRTIO_MEM_RESP_ACK ||
	    answer.u.state.state != VIRTIO_MEM_STATE_PLUGGED)
		guest_fail("a message in pieces: answer %u, state %u", (unsigned int)answer.type,
			   (unsigned int)answer.u.state.state);
	check_kept("a message in pieces");
	print("hostile-mem: a message in pieces: served\n");
}

/* ---- The ground under the device's feet ---- */

/* The answer's place goes with the block: it cannot be written, and that is the guest's loss. */
static void answer_in_own_block(void)
{
	struct vring_desc descs[2] = { out(&request, sizeof(request)) };
	const struct vring_used_elem *used;

	mem_plug(&mem, PLAY, 1);
	used = &mem.vq.used.ring[mem.vq.last_used % mem.vq.size];
	*block_words(PLAY, 0) = MARK;
	descs[1] = in((void *)(uintptr_t)mem_block(&mem, PLAY), sizeof(answer));
	ask(VIRTIO_MEM_REQ_UNPLUG, PLAY);
	offer(descs, 2);
	if (!vq_wait(&mem.dev, &mem.vq))
		guest_fail("an answer in the block that goes: not used");
	if (used->len != 0)
		guest_fail("an answer in the block that goes: %u bytes written", used->len);
	check_kept("an answer in the block that goes");
	print("hostile-mem: an answer in the block that goes: not written\n");
}

/* The whole queue lies in the block that the guest has unplugged through it. */
static void queue_in_own_block(void)
{
	struct vq *vq;
	const struct vring_desc descs[2] = { out(&request, sizeof(request)),
					     in(&answer, sizeof(answer)) };

	mem_plug(&mem, PLAY, 1);
	vq = (struct vq *)(uintptr_t)mem_block(&mem, PLAY);
	virtio_reset(&mem.dev);
	virtio_negotiate(&mem.dev, MEM_FEATURES);
	vq_setup(&mem.dev, vq, 0);
	virtio_driver_ok(&mem.dev);
	ask(VIRTIO_MEM_REQ_UNPLUG, PLAY);
	vq->desc[0] = descs[0];
	vq->desc[0].flags = VRING_DESC_F_NEXT;
	vq->desc[0].next = 1;
	vq->desc[1] = descs[1];
	vq_offer(vq, 0);
	broken("a queue in the block that goes");
}

/* A chain that is offered before DRIVER_OK waits for it. */
static void too_early(void)
{
	const struct vring_desc descs[2] = { out(&request, sizeof(request)),
					     in(&answer, sizeof(answer)) };
	uint64_t start;

	virtio_reset(&mem.dev);
	virtio_negotiate(&mem.dev, MEM_FEATURES);
	vq_setup(&mem.dev, &mem.vq, 0);
	ask(VIRTIO_MEM_REQ_PLUG, PLAY);
	offer(descs, 2);
	for (start = rdtsc(); rdtsc() - start < PATIENCE / 100;)
		cpu_relax();
	if (mem.vq.used.idx || mem_plugged(&mem) != mem.block_size)
		guest_fail("a request before DRIVER_OK is served");
	virtio_driver_ok(&mem.dev);
	if (!vq_wait(&mem.dev, &mem.vq) || answer.type != VIRTIO_MEM_RESP_ACK)
		guest_fail("a request from before DRIVER_OK is not served after it");
	mem_unplug(&mem, PLAY, 1);
	check_kept("a request before DRIVER_OK");
	print("hostile-mem: a request before DRIVER_OK: waits\n");
}

/* A driver that would read unplugged memory is refused, and the configuration is not the guest's.
 */
static void bad_setup(void)
{
	volatile uint8_t *fields = mem.dev.device;
	uint64_t requested = mem_requested(&mem);

	virtio_reset(&mem.dev);
	if (virtio_accept(&mem.dev, 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_MEM_F_ACPI_PXM))
		guest_fail("a driver without UNPLUGGED_INACCESSIBLE is accepted");
	mem_start(&mem);
	for (unsigned int i = 0; i < sizeof(struct virtio_mem_config); i += 4)
		*(volatile uint32_t *)(fields + i) = 0x41414141;
	if (mem_requested(&mem) != requested)
		guest_fail("the guest can write the requested size");
	check_kept("a write to the configuration");
	print("hostile-mem: features and configuration: hold\n");
}

/* ---- Blocks that the guest does not have ---- */

/* A block that is not there is not RAM to the balloon; one that is in it may go nevertheless. */
static void balloon_blocks(void)
{
	static uint32_t pfn;

	pfn = (uint32_t)(mem_block(&mem, PLAY) / PAGE_SIZE);
	balloon_start(&balloon);
	balloon.inflate.desc[0] = out(&pfn, sizeof(pfn));
	vq_offer(&balloon.inflate, 0);
	if (!needs_reset(&balloon.dev))
		guest_fail("an unplugged block in the balloon: no DEVICE_NEEDS_RESET");
	print("hostile-mem: an unplugged block in the balloon: needs reset\n");
	balloon_start(&balloon);
	mem_plug(&mem, PLAY, 1);
	*block_words(PLAY, 0) = MARK;
	balloon_frame(&balloon.inflate, mem_block(&mem, PLAY));
	mem_unplug(&mem, PLAY, 1);
	mem_plug(&mem, PLAY, 1);
	check_zero("a block that went while it was in the balloon", PLAY);
	*block_words(PLAY, 0) = MARK;
	balloon_frame(&balloon.deflate, mem_block(&mem, PLAY));
	if (*block_words(PLAY, 0) != MARK)
		guest_fail("a block changes when the balloon gives back what it has not");
	mem_unplug(&mem, PLAY, 1);
	check_kept("blocks in the balloon");
	print("hostile-mem: a block that goes while it is in the balloon: comes back zeroed\n");
}

/*
 * Beside a plugged block, a touch gets a zeroed frame, as long as the guest has not got all it may
 * have (it has not: its RAM is untouched for the most part). Beyond that it would wait; hence two.
 */
static void touch_beside(void)
{
	mem_plug(&mem, PLAY, 1);
	*block_words(PLAY, 0) = MARK;
	mem_unplug(&mem, PLAY, 1);
	check_zero("a touch of a block that went", PLAY);
	check_zero("a touch of a block that never was", PLAY + 1);
	*block_words(PLAY, 1) = MARK;
	if (*block_words(PLAY, 1) != MARK)
		guest_fail("a frame that was touched unplugged is not there");
	check_kept("touches of unplugged blocks");
	print("hostile-mem: touches beside a plugged block: zeroed frames\n");

	/* Plugged now, the block is new. */
	mem_plug(&mem, PLAY, 1);
	check_zero("a plug of a block that was used without being there", PLAY);
	mem_unplug(&mem, PLAY, 1);
	check_kept("a plug of a touched block");
}

/* Where nothing is plugged far and wide, there is nothing at all, or zeroes. */
static void touch_alone(void)
{
	volatile uint64_t *word = block_words(KEPT, 0);
	uint64_t found;

	mem_unplug_all(&mem);
	found = *word;
	if (found != 0 && found != ~0ull)
		guest_fail("an empty region reads 0x%lx", found);
	*word = MARK;
	print("hostile-mem: touches of an empty region: read 0x%lx\n", found);
	mem_plug(&mem, KEPT, 1);
	check_zero("a plug after touches of an empty region", KEPT);
}

void guest_main(void)
{
	mem_start(&mem);
	if (mem_requested(&mem) / mem.block_size < 8 ||
	    mem_requested(&mem) / mem.block_size + PLAY >= mem_usable(&mem) / mem.block_size)
		guest_fail("needs 8 requested blocks, and a region with more");
	mem_plug(&mem, KEPT, 1);
	for (uint64_t page = 0; page < PAGES_PER_FRAME; page++)
		*block_words(KEPT, page) = MARK + page;
	bad_ranges();
	bad_types();
	bad_states();
	beyond_requested();
	bad_messages();
	message_in_pieces();
	answer_in_own_block();
	queue_in_own_block();
	too_early();
	bad_setup();
	balloon_blocks();
	touch_beside();
	touch_alone();
	if (virtio_status(&mem.dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		guest_fail("the device wants a reset in the end");
}
