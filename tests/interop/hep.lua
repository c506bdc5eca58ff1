-- HEPv3 for tshark, which has no dissector of it: chunks of the HEP3 document of sipcapture.org, and the SIP inside.

local hep = Proto("hep", "Homer Encapsulation Protocol")
local field = {
  [2] = ProtoField.uint8("hep.ip_protocol", "IP protocol"),
  [3] = ProtoField.ipv4("hep.src_ip4", "Source"),
  [4] = ProtoField.ipv4("hep.dst_ip4", "Destination"),
  [7] = ProtoField.uint16("hep.src_port", "Source port"),
  [8] = ProtoField.uint16("hep.dst_port", "Destination port"),
  [11] = ProtoField.uint8("hep.proto_type", "Protocol type"),
  [12] = ProtoField.uint32("hep.capture_id", "Capture id"),
  [17] = ProtoField.string("hep.correlation_id", "Correlation id"),
}
do
  local all = {}
  for _, each in pairs(field) do all[#all + 1] = each end
  hep.fields = all
end

function hep.dissector(tvb, pinfo, tree)
  if tvb:len() < 6 or tvb(0, 4):string() ~= "HEP3" or tvb(4, 2):uint() ~= tvb:len() then return 0 end
  local top = tree:add(hep, tvb())
  local at, sip, kind = 6, nil, 0
  while at < tvb:len() do
    local vendor, type, length = tvb(at, 2):uint(), tvb(at + 2, 2):uint(), tvb(at + 4, 2):uint()
    local value = tvb(at + 6, length - 6)
    if vendor == 0 and field[type] then top:add(field[type], value) end
    if type == 11 then kind = value:uint() end
    if type == 15 then sip = value:tvb() end
    at = at + length
  end
  if kind == 1 and sip then Dissector.get("sip"):call(sip, pinfo, tree) end
  return tvb:len()
end

DissectorTable.get("udp.port"):add(9060, hep)
