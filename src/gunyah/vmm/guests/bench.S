// Measures what calls, traps, interrupts and plain code cost, with the system counter, and prints one line a round:
// name, operations, ticks. The message queue that it owns both ends of is put into `mailbox` by the host.

        .include "guest.inc"

        .equ    ROUNDS,         20
        // On a busy host a round has to fit into a time slice for the best one to be undisturbed.
        .equ    CALLS,          2000
        .equ    PAIRS,          250
        .equ    RPCS,           20
        .equ    TIMERS,         5
        .equ    ALU_ROUNDS,     2000000
        .equ    COPIES,         1
        .equ    COPY_BYTES,     0x400000

        // loop name, count, body: several rounds of the body that often, with X19 as the counter; a line each
        .macro  loop, name, count, body:vararg
        mov     x28, #ROUNDS
1:      say     "\name "
        mov64   x19, \count
        mov     x0, x19
        bl      putdec
        say     " "
        mrs     x20, cntvct_el0
2:      \body
        subs    x19, x19, #1
        b.ne    2b
        bl      finish
        subs    x28, x28, #1
        b.ne    1b
        .endm

        .macro  call_identify
        hvc     #HVC_IDENTIFY
        .endm

        .macro  call_identify_smccc
        mov64   x0, 0xc6008000
        hvc     #0
        .endm

        .macro  call_undefined
        hvc     #0x6003
        .endm

        .macro  call_psci_version
        mov64   x0, 0x84000000
        hvc     #0
        .endm

        .macro  call_psci_version_smc
        mov64   x0, 0x84000000
        smc     #0
        .endm

        .macro  call_receive_empty
        mov     x0, x22
        adr     x1, buffer
        mov     x2, #240
        mov     x3, #0
        hvc     #HVC_RECEIVE
        .endm

        .macro  read_gicd
        ldr     w0, [x24, #4]
        .endm

        .macro  read_id
        mrs     x0, id_aa64pfr0_el1
        .endm

        .macro  read_counter
        mrs     x0, cntvct_el0
        .endm

        .macro  send_receive
        mov     x0, x25
        mov     x1, #240
        adr     x2, buffer
        mov     x3, #0
        mov     x4, #0
        hvc     #HVC_SEND
        mov     x0, x26
        adr     x1, buffer
        mov     x2, #240
        mov     x3, #0
        hvc     #HVC_RECEIVE
        .endm

        .macro  alu
        add     x0, x0, x1
        eor     x1, x1, x0
        sub     x2, x2, x1
        lsl     x3, x2, #3
        orr     x0, x0, x3
        add     x1, x1, #1
        .endm

_start: adr     x1, stack
        mov     sp, x1
        bl      find_link
        mov     x21, x0
        mov     x22, x1
        mov     x23, x3
        mov64   x24, GICD
        bl      gic_start
        mov     x0, x23
        bl      spi_enable
        bl      mmu_on

        say     "ready\n"
        adr     x0, mailbox
2:      yield
        ldar    x25, [x0]
        cbz     x25, 2b
        ldr     x26, [x0, #8]

        loop    "identify", CALLS, call_identify
        loop    "identify_smccc", CALLS, call_identify_smccc
        loop    "undefined_call", CALLS, call_undefined
        loop    "psci_version", CALLS, call_psci_version
        loop    "psci_version_smc", CALLS, call_psci_version_smc
        loop    "receive_empty", CALLS, call_receive_empty
        loop    "gicd_read", CALLS, read_gicd
        loop    "id_register", CALLS, read_id
        loop    "counter_read", CALLS, read_counter
        loop    "queue_240", PAIRS, send_receive
        loop    "rpc", RPCS, bl get_vmid
        loop    "timer_interrupt", TIMERS, bl timer_interrupt
        loop    "alu", ALU_ROUNDS, alu
        loop    "copy", COPIES, bl copy

        say     "done\n"
        psci    PSCI_SYSTEM_OFF

// finish(): print the ticks since X20 and end the line
function finish
        mrs     x0, cntvct_el0
        sub     x0, x0, x20
        bl      putdec
        mov     x0, #10
        bl      putc
        return

// get_vmid(): one request to RM and its reply, sleeping in between
function get_vmid
        mov     x0, x21
        mov     x1, #8
        adr     x2, request
        mov     x3, #1
        mov     x4, #0
        hvc     #HVC_SEND
1:      bl      irq_wait
        cmp     x0, x23
        b.ne    1b
        mov     x0, x22
        adr     x1, buffer
        mov     x2, #240
        mov     x3, #0
        hvc     #HVC_RECEIVE
        cbnz    x0, 1b
        return

// timer_interrupt(): how late a timer interrupt is; the measured time is moved so that only the lateness counts
function timer_interrupt
        mrs     x0, cntvct_el0
        add     x27, x0, #0x1f, lsl #12         // about 2 ms
        msr     cntv_cval_el0, x27
        mov     x1, #1
        msr     cntv_ctl_el0, x1
1:      bl      irq_wait
        cmp     x0, #TIMER_INTID
        b.ne    1b
        msr     cntv_ctl_el0, xzr
        add     x20, x20, #0x1f, lsl #12
        return

// copy(): 4 MiB in 16-byte pieces, and their sum
function copy
        adr     x0, tables
        add     x0, x0, #0x100, lsl #12
        add     x1, x0, #COPY_BYTES >> 12, lsl #12
        mov     x2, #COPY_BYTES / 16
1:      ldp     x3, x4, [x0], #16
        stp     x3, x4, [x1], #16
        add     x5, x5, x3
        subs    x2, x2, #1
        b.ne    1b
        return

        .include "mmu.inc"
        .include "lib.inc"

        .balign 8
request:
        .byte   0x21, 0x01
        .hword  1
        .word   0x56000024

        // Data: the two pages before are read-only.
        .org    0x2000
buffer: .space  256
mailbox:
        .quad   0, 0
        .space  4096
stack:
        .balign 0x1000
tables: .space  0x3000
