/* SPDX-License-Identifier: MIT */
/*
 * What Linux cannot find by itself: the PCI host bridge and its windows, the ISA devices, and how to
 * switch off. Every number is one of include/framevisor/layout.h; tests/unit/test_acpi.c compares
 * them. There is no _PRT: all PCI functions use MSI-X.
 */
DefinitionBlock ("", "DSDT", 2, "FRAMEV", "FRAMEVSR", 1)
{
    /* SLP_TYPa of "off" (POWER_S5_SLP_TYP); written to PM1 control at 0x604 with SLP_EN. */
    Name (\_S5, Package () {5, 5, 0, 0})

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08"))
            Name (_CID, EisaId ("PNP0A03"))
            Name (_SEG, 0)
            Name (_BBN, 0)
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                /* Bus 0 only: LAYOUT_PCI_BUS_MAX. */
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0x0000, 0x0000, 0x0000, 0x0000, 0x0001)
                /* Port windows around the configuration ports, which the bridge itself uses. */
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0x0000, 0x0000, 0x0CF7, 0x0000, 0x0CF8)
                IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0x0000, 0x0D00, 0xFFFF, 0x0000, 0xF300)
                /* LAYOUT_PCI_MMIO */
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0x00000000, 0xC0000000, 0xDFFFFFFF, 0x00000000, 0x20000000)
            })
        }

        /* Taken addresses without a driver: ECAM, PM block and reset register. */
        Device (MRES)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xE0000000, 0x00100000)
                IO (Decode16, 0x0600, 0x0600, 0x01, 0x0D)
            })
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 1)
            Name (_STA, 0x0F)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08)
                IRQ (Edge, ActiveHigh, Exclusive) {4}
            })
        }

        /* Without an interrupt: the clock has no alarm and no periodic tick. */
        Device (RTC0)
        {
            Name (_HID, EisaId ("PNP0B00"))
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0070, 0x0070, 0x01, 0x02)
            })
        }
    }
}
